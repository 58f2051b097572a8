"""Angles that depend on the longest row of a pass: what a row gets depends on no other row, nor on passes before.

The truth is transformers' own pass over each row alone, by a model that has seen no other.
"""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from lowregret.data.batches import collate
from lowregret.data.example import Example
from lowregret.engine import AdamParams, Engine, SamplingParams
from lowregret.engine.forward.positions import row_lengths
from lowregret.models.load import Base, Source
from lowregret.spec import LoRA

LIMIT = 20
SHORT, LONG = (6, 12, LIMIT), (LIMIT + 1, 31)
FACTORS = {"short_factor": [1.0, 1.2, 1.4, 1.6], "long_factor": [2.0, 4.0, 8.0, 16.0]}
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": LIMIT, **FACTORS}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
NAMES = ("phi3", "phimoe", "longrope", "dynamic", "layers")


def config(bases: ModuleType, name: str) -> Any:
    shape = {**bases.GROUPED, "max_position_embeddings": 64}
    if name == "phi3":
        return transformers.Phi3Config(**shape, rope_parameters=LONGROPE, original_max_position_embeddings=LIMIT)
    if name == "phimoe":  # multiplies by a number of its own, too
        rope = {**LONGROPE, "short_mscale": 1.1, "long_mscale": 1.7}
        return transformers.PhimoeConfig(
            **{**shape, "num_key_value_heads": 2}, rope_parameters=rope, num_local_experts=2, num_experts_per_tok=2
        )
    if name == "longrope":
        return transformers.Qwen3Config(**shape, head_dim=8, rope_parameters=LONGROPE)
    if name == "dynamic":
        return transformers.LlamaConfig(**{**shape, "max_position_embeddings": LIMIT}, rope_parameters=DYNAMIC)
    kinds = {"sliding_attention": {"rope_type": "default", "rope_theta": 100.0}, "full_attention": LONGROPE}
    layers = {"layer_types": list(kinds), "sliding_window": 8, "head_dim": 8, "query_pre_attn_scalar": 8}
    return transformers.Gemma3TextConfig(**shape, **layers, rope_parameters=kinds)


def make(bases: ModuleType, name: str) -> tuple[Engine, Any]:
    """An engine, and a model with the same weights that nobody has used."""
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config(bases, name), dtype=torch.float32).eval()
    return Engine(Base(copy.deepcopy(model), bases.small_tokenizer(), Source(name, name))), model


def rows(*lengths: int, seed: int = 0) -> list[Example]:
    """Rows with some supervised tokens, the last of them before the row's end: what follows counts for its length."""
    draw = random.Random(seed)
    tokens = [tuple(draw.randrange(2, 64) for _ in range(length)) for length in lengths]
    return [Example(ids, (False, *(i % 3 > 0 for i in range(1, len(ids) - 1)), False)) for ids in tokens]


def alone(model: Any, row: Example) -> Tensor:
    with torch.no_grad():
        logits = copy.deepcopy(model)(torch.tensor([row.token_ids])).logits[0, :-1]
    found = logits.log_softmax(-1).gather(1, torch.tensor(row.token_ids[1:])[:, None])[:, 0]
    return found[torch.tensor(row.supervised[1:])]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_rows_beside_each_other_are_rows_alone(bases: ModuleType, name: str, padded: bool) -> None:
    engine, model = make(bases, name)
    assert engine._positions
    if padded:
        engine.padding_free = False
    for some in (rows(*LONG, *SHORT), rows(*SHORT, seed=1), rows(*LONG, seed=2)):
        found = engine.forward({"base": collate(some)})["base"].logprobs
        torch.testing.assert_close(found, torch.cat([alone(model, row) for row in some]), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_length_of_a_row_makes_a_difference_here(bases: ModuleType, name: str) -> None:
    """Else the test above says nothing."""
    _, model = make(bases, name)
    first, second = rows(LONG[0], LIMIT)
    second = replace(second, token_ids=first.token_ids[:LIMIT])
    count = second.supervised_tokens
    assert (alone(model, first)[:count] - alone(model, second)).abs().max() > 1e-3


def test_most_bases_are_left_as_they_are(bases: ModuleType, architecture: str) -> None:
    engine = Engine(bases.small_base(architecture))
    assert not engine._positions
    assert not any("forward" in module.__dict__ for module in engine.model.modules())


def test_a_base_that_had_an_engine_is_found_out_again(bases: ModuleType) -> None:
    engine, model = make(bases, "phi3")
    again = Engine(engine.base)
    some = rows(*LONG, *SHORT)
    found = again.forward({"base": collate(some)})["base"].logprobs
    torch.testing.assert_close(found, torch.cat([alone(model, row) for row in some]), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["phi3", "dynamic"])
def test_a_training_step_of_a_pack_is_that_of_each_row_alone(bases: ModuleType, name: str) -> None:
    """Gradients of two adapters over mixed rows, against passes of one row; activations computed twice, too."""
    some = rows(*LONG, *SHORT)
    batch = collate(some)
    engine, _ = make(bases, name)
    found = {}
    for together in (True, False):
        for policy, rank in (("a", 2), ("b", 3)):
            bases.adapted(engine, policy, rank=rank, seed=rank)
        parts = [batch] if together else [batch.select([row]) for row in range(batch.rows)]
        for part in parts:
            engine.forward_backward({"a": part, "b": part})
        found[together] = {
            (policy, key): weight.grad.clone()
            for policy in ("a", "b")
            for key, weight in engine.policies[policy].weights.items()
        }
        engine.remove_policy("a")
        engine.remove_policy("b")
    for key, gradient in found[True].items():
        torch.testing.assert_close(gradient, found[False][key], atol=1e-5, rtol=1e-4)


def test_checkpointed_activations_are_the_same(bases: ModuleType) -> None:
    losses = []
    for checkpointed in (False, True):
        engine, _ = make(bases, "phi3")
        engine = Engine(engine.base, checkpoint_activations=checkpointed)
        engine.add_policy("a", LoRA(rank=2))
        for _ in range(2):
            result = engine.forward_backward({"a": collate(rows(*LONG, *SHORT))})["a"]
            engine.optim_step({"a": AdamParams(1e-2)})
        losses.append(float(result.loss))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@pytest.mark.parametrize("name", ["phi3", "dynamic"])
def test_rows_of_one_prompt_share_it_only_with_their_kind(bases: ModuleType, name: str) -> None:
    engine, model = make(bases, name)
    prompt, *endings = [row.token_ids for row in rows(12, 3, 5, 12, 12, 14)]
    some = [Example(prompt + end, (False,) * 12 + (True,) * len(end)) for end in endings]
    batch = replace(collate(some), prompts=torch.zeros(len(some), dtype=torch.int64))
    assert engine.shares("base")
    found = engine.forward({"base": batch})["base"].logprobs
    torch.testing.assert_close(found, torch.cat([alone(model, row) for row in some]), atol=2e-5, rtol=0)


def greedy(model: Any, prompt: list[int], tokens: int) -> list[int]:
    """Without a cache: each token after a pass over the row so far, by a model that has seen nothing before."""
    found = list(prompt)
    for _ in range(tokens):
        with torch.no_grad():
            found.append(int(copy.deepcopy(model)(torch.tensor([found])).logits[0, -1].argmax()))
    return found[len(prompt) :]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_completion_is_that_of_its_prompt_alone(bases: ModuleType, name: str, padded: bool) -> None:
    """Beside longer ones, and in a row that grows beyond the limit itself; rows leave and join on the way."""
    engine, model = make(bases, name)
    if padded:
        engine.padding_free = False
    prompts = [list(row.token_ids) for row in rows(5, 28, LIMIT - 4, LIMIT, 5)]
    for most in (None, 2):
        params = SamplingParams(max_tokens=8, temperature=0.0)
        found = engine.sample({"base": prompts}, params, max_rows=most)["base"]
        assert [list(each.token_ids) for each in found] == [greedy(model, prompt, 8) for prompt in prompts]


def test_phi3_grows_as_transformers_has_it(bases: ModuleType) -> None:
    engine, model = make(bases, "phi3")
    prompt = list(rows(LIMIT - 4)[0].token_ids)
    own = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None)[
        0, len(prompt) :
    ]
    found = engine.sample({"base": [prompt]}, SamplingParams(max_tokens=12, temperature=0.0))["base"][0]
    assert list(found.token_ids) == own.tolist()


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_base_that_mixes_its_rows_is_given_one_at_a_time(bases: ModuleType, dynamic: bool) -> None:
    """Whatever it computes over the whole pass: the probe finds it, and no row is beside another any more."""
    engine, model = make(bases, "dynamic" if dynamic else "phi3")
    for each in (engine.base.model, model):
        own = type(each).forward

        def forward(input_ids: Tensor, own: Any = own, each: Any = each, **others: Any) -> Any:
            found = own(each, input_ids=input_ids, **others)
            found.logits = found.logits * (1 + input_ids.numel() / 50)
            return found

        each.forward = forward
    engine = Engine(engine.base)
    assert engine.forward_path.name == "one row a pass, full logits"
    assert "differ from the base's own" in str(engine.forward_path.refused)
    bases.adapted(engine, "a")
    some = [Example(row.token_ids, (False, *(True,) * (len(row.token_ids) - 1))) for row in rows(6, 12, 25)]
    engine.policies.clear()
    found = engine.forward({"base": collate(some)})["base"].logprobs

    def truth(row: Example) -> Tensor:
        with torch.no_grad():
            logits = model.forward(torch.tensor([row.token_ids[:-1]])).logits[0]
        return logits.log_softmax(-1).gather(1, torch.tensor(row.token_ids[1:])[:, None])[:, 0]

    torch.testing.assert_close(found, torch.cat([truth(row) for row in some]), atol=2e-4, rtol=0)


def test_where_rows_begin() -> None:
    places = torch.tensor([[0, 1, 2, 0, 1, 0, 0, 5]])
    assert row_lengths(places).tolist() == [[3, 3, 3, 2, 2, 1, 6, 6]]
    assert row_lengths(torch.tensor([[4], [2]])).tolist() == [[5], [3]]
    assert row_lengths(torch.tensor([[0, 0, 1], [0, 1, 2]])).tolist() == [[1, 2, 2], [3, 3, 3]]
