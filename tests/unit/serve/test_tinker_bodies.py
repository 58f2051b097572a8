"""Bodies of Tinker's requests that say more than numpy or SQLite can hold: a problem of the client's, told as one."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from lowregret.serve.problems import Problem
from lowregret.serve.prompts import UNSAID
from lowregret.serve.requests import parse
from lowregret.serve.tinker.bodies import place_in
from lowregret.serve.tinker.forms import CHUNKS, SampleForm
from lowregret.serve.tinker.reading import passing
from lowregret.serve.tinker.samplers import Samplers
from lowregret.serve.tinker.tensors import CELLS, DATA, NAMED, shaped
from lowregret.serve.tinker.wire import _put


def body_with(weights: dict[str, Any]) -> bytes:
    inputs = {"target_tokens": {"data": [1, 2], "dtype": "int64"}, "weights": weights}
    datum = {"model_input": {"chunks": [{"tokens": [1, 2]}]}, "loss_fn_inputs": inputs}
    return json.dumps({"forward_input": {"data": [datum], "loss_fn": "cross_entropy"}, "model_id": "m"}).encode()


@pytest.mark.parametrize(
    "weights",
    [
        {"data": [10**400, 1], "dtype": "float32"},
        {"data": [10**40, 1], "dtype": "int64"},
        {"data": [], "dtype": "float32", "shape": [0, 10**30]},
        {"data": [], "dtype": "int64", "shape": [2**62, 0]},
        {
            "data": [],
            "dtype": "float32",
            "shape": [0, 10**30],
            "sparse_crow_indices": [0],
            "sparse_col_indices": [],
        },
        {"data": [1, 2], "dtype": "float32", "shape": [1, 1]},
    ],
)
def test_numbers_and_shapes_that_no_array_has_are_the_clients(weights: dict[str, Any]) -> None:
    with pytest.raises(Problem) as problem:
        passing(body_with(weights), "json")
    assert problem.value.status == 400


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"\x1a\x00" * (DATA + 1), f"1 to {DATA}"),
        (b"\x1a\x00" * 500_000, f"1 to {DATA}"),
        (_put(3, b"".join(_put(2, _put(1, str(n)) + _put(2, _put(3, 1))) for n in range(NAMED + 1))), f"up to {NAMED}"),
        (b"".join(_put(5, _put(1, str(name))) for name in range(NAMED + 1)), f"up to {NAMED}"),
        (b"".join(_put(7, _put(1, str(n)) + _put(2, _put(1, 0.5))) for n in range(NAMED + 1)), f"up to {NAMED}"),
        (_put(3, _put(2, _put(1, "a") + _put(2, _put(4, b"\x01" * 64)))), "too many sizes"),
        (_put(3, _put(2, _put(1, "a") + _put(2, _put(4, 1) * 64))), "too many sizes"),
    ],
    ids=["one more", "many", "inputs", "settings", "settings of 0.38", "a packed shape", "a shape"],
)
def test_what_is_too_much_is_said_while_it_is_read(body: bytes, said: str) -> None:
    """A datum of two bytes takes three hundred in memory, and a body may have 64 MB."""
    with pytest.raises(Problem, match=said) as problem:
        passing(body, "proto")
    assert problem.value.status == 400


def test_as_much_as_is_taken_is_read() -> None:
    assert len(passing(b"\x1a\x00" * DATA, "proto").data) == DATA
    datum: dict[str, Any] = {"model_input": {"chunks": []}, "loss_fn_inputs": {}}
    given = {"data": [datum] * (DATA + 1), "loss_fn": "cross_entropy"}
    with pytest.raises(Problem, match=f"at most {DATA}"):
        passing(json.dumps({"forward_input": given, "model_id": "m"}).encode(), "json")


@pytest.mark.parametrize("shape", [[0, 2**62], [CELLS, CELLS, 0], [-1, 2], [3], [2**63, 0]])
def test_a_shape_that_its_numbers_do_not_fill(shape: list[int]) -> None:
    with pytest.raises(Problem, match="has 2 numbers"):
        shaped(np.zeros(2), shape)


@pytest.mark.parametrize("shape", [[], [2], [2, 1], [1, 2]])
def test_a_shape_that_its_numbers_fill(shape: list[int]) -> None:
    assert list(shaped(np.zeros(2), shape).shape) == (shape or [2])


def test_the_place_of_a_broken_body_is_a_models() -> None:
    assert place_in(b'{"model_id": "s:train:0", "seq_id": 3}') == ("s:train:0", 3)
    assert place_in(b'{"model_id": "\\ud800", "seq_id": 3}') is None


def test_a_prompt_has_no_more_chunks_than_tokens() -> None:
    """They are looked at while nobody else is answered."""
    assert CHUNKS == UNSAID
    assert len(drawing(prompt={"chunks": [{"tokens": [1]}] * 100}).prompt.tokens) == 100
    with pytest.raises(Problem, match=f"at most {CHUNKS}"):
        drawing(prompt={"chunks": [{"tokens": []}] * (CHUNKS + 1)})


def drawing(**more: Any) -> SampleForm:
    body = {"sampling_session_id": "s", "seq_id": 0, "prompt": {"chunks": [{"tokens": [1]}]}, "sampling_params": {}}
    return parse(SampleForm, json.dumps(body | more).encode())


@pytest.fixture
def samplers() -> Samplers:
    prompts = SimpleNamespace(vocabulary=9, end_ids=(), end_texts=(), room=lambda *_: 4)
    ledger = SimpleNamespace(sampler=lambda name: {})
    return Samplers(cast(Any, None), cast(Any, None), cast(Any, ledger), cast(Any, prompts), 1)


def test_more_likely_tokens_than_there_are_tokens(samplers: Samplers) -> None:
    samplers.check(drawing(topk_sample_logprobs=9, topk_prompt_logprobs=9))
    for name in ("topk_sample_logprobs", "topk_prompt_logprobs"):
        with pytest.raises(Problem, match="has 9 tokens"):
            samplers.check(drawing(**{name: 10}))


def test_a_temperature_that_is_nearly_nothing_is_nothing(samplers: Samplers) -> None:
    """Logits over 1e-40 are infinite."""
    assert samplers._params(drawing(sampling_params={"temperature": 1e-40}), 0).temperature == 0
    assert samplers._params(drawing(sampling_params={"temperature": 0.01}), 0).temperature == 0.01


@pytest.mark.parametrize(
    ("stop", "said"), [("\ud800", "surrogate"), ([""], "1 to 500"), (["a" * 501], "1 to 500"), (["a"] * 17, "up to 16")]
)
def test_stops_that_are_no_texts_are_refused_before_they_are_taken(stop: Any, said: str) -> None:
    with pytest.raises(Problem, match=said) as problem:
        drawing(sampling_params={"stop": stop})
    assert problem.value.status == 400
