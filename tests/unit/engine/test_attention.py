"""Rows end to end: each attends to itself alone, whatever the others' lengths, and padding costs nothing."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lowregret.data.batches import collate
from lowregret.engine import Engine
from lowregret.engine.attention import Rows, attend, attending, configurations
from lowregret.engine.layout import lay_out
from lowregret.models.load import Base, Source

CPU = torch.device("cpu")
LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=12)


def alone(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
    """One row's attention by its definition, [tokens, heads, d]."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    distance = torch.arange(len(q))[:, None] - torch.arange(len(q))
    hidden = (distance < 0) | (distance >= (window or math.inf))
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -math.inf).softmax(-1), v)


@given(LENGTHS)
def test_groups_hold_every_token_once_and_little_padding(lengths: list[int]) -> None:
    rows = Rows.of(lengths, CPU)
    assert sum(count for count, _ in rows.groups) == len(lengths)
    assert rows.slots == sum(count * length for count, length in rows.groups)
    slot = torch.arange(rows.slots) if rows.slot is None else rows.slot
    assert len(slot.unique()) == len(slot) == sum(lengths)
    assert 0 <= int(slot.min()) <= int(slot.max()) < rows.slots
    place = 0
    for length in lengths:  # each row's tokens lie next to each other, at the start of a padded row
        own = slot[place : place + length]
        assert torch.equal(own, torch.arange(length) + own[0])
        place += length
    assert rows.slots <= 1.25 * sum(lengths) + 8 * len(lengths)


@pytest.mark.parametrize("lengths", [[7], [5, 5, 5], [3, 40, 1, 9, 9, 17]])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_each_row_attends_to_itself_alone(lengths: list[int], window: int | None, kv_heads: int) -> None:
    torch.manual_seed(0)
    total = sum(lengths)
    q, k, v = (torch.randn(total, heads, 8, dtype=torch.float64) for heads in (4, kv_heads, kv_heads))
    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    states = [x.transpose(0, 1)[None] for x in inputs]
    out, _ = attend(nn.Module(), *states, None, rows=Rows.of(lengths, CPU), scaling=0.3, sliding_window=window)
    target = torch.randn_like(out)
    (out * target).sum().backward()

    again = [x.clone().requires_grad_() for x in (q, k, v)]
    expected = torch.cat(
        [alone(*pieces, 0.3, window) for pieces in zip(*(x.split(lengths) for x in again), strict=True)]
    )
    (expected * target[0]).sum().backward()
    torch.testing.assert_close(out[0], expected)
    for mine, its in zip(inputs, again, strict=True):
        torch.testing.assert_close(mine.grad, its.grad)


@pytest.mark.parametrize("asked", [{"softcap": 2.0}, {"s_aux": torch.zeros(1)}, {"dropout": 0.1}])
def test_what_it_does_not_compute_is_refused(asked: dict[str, Any]) -> None:
    x = torch.randn(1, 2, 3, 4)
    with pytest.raises(NotImplementedError):
        attend(nn.Module(), x, x, x, None, rows=Rows.of([3], CPU), **asked)


def test_the_models_own_attention_comes_back(bases: ModuleType) -> None:
    model = bases.small_model("llama")
    configs = configurations(model)
    before = [config._attn_implementation for config in configs]
    with attending(configs):
        assert {config._attn_implementation for config in configs} == {"lowregret_rows"}
    assert [config._attn_implementation for config in configs] == before


def test_a_layout_holds_what_is_needed_and_no_padding(bases: ModuleType) -> None:
    batches = {name: collate(bases.examples(3, seed=seed, longest=9)) for seed, name in enumerate("ab")}
    laid = lay_out(batches, ["b", "a"], CPU, padded=False)
    used = {name: batch.used.tolist() for name, batch in batches.items()}
    assert laid.tokens == (sum(used["b"]), sum(used["a"]))
    assert laid.inputs["input_ids"].shape == (1, sum(laid.tokens))
    restarts = [place for length in used["b"] + used["a"] for place in range(length)]
    assert laid.inputs["position_ids"][0].tolist() == restarts
    rows = [batches["b"].input_ids[row, :length] for row, length in enumerate(used["b"])]
    assert torch.equal(laid.inputs["input_ids"][0, : laid.tokens[0]], torch.cat(rows))
    wide = lay_out(batches, ["b", "a"], CPU, padded=True)
    assert wide.inputs["input_ids"].shape == (6, max(used["a"] + used["b"]))
    for other in (laid, wide):
        assert torch.equal(other.inputs["input_ids"].flatten()[other.selected], picked(batches, "ba", "input_ids"))
        assert torch.equal(other.targets, picked(batches, "ba", "targets"))
        assert torch.equal(other.weights, picked(batches, "ba", "weights"))
        assert other.positions == tuple(int(batches[name].supervised.sum()) for name in "ba")


def picked(batches: Any, order: str, field: str) -> Tensor:
    return torch.cat([getattr(batches[name], field)[batches[name].supervised] for name in order])


EXPECTED_WAY = {"gemma2": (False, True)}  # its attention caps scores, which stays its own matter


def test_each_architecture_finds_its_way(bases: ModuleType, architecture: str) -> None:
    engine = Engine(bases.small_base(architecture))
    assert (engine.padding_free, engine._unembedding.chunked) == EXPECTED_WAY.get(architecture, (True, True))


@pytest.mark.parametrize("padding_free", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
def test_every_way_gives_the_same_numbers(bases: ModuleType, padding_free: bool, chunked: bool) -> None:
    expected, found = (gradients(bases, *way) for way in ((True, True), (padding_free, chunked)))
    assert any(value.any() for value in expected.values())
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


def gradients(bases: ModuleType, padding_free: bool, chunked: bool) -> dict[str, Tensor]:
    engine = Engine(bases.small_base("llama"))
    engine.padding_free, engine._unembedding.chunked = padding_free, chunked
    for seed, name in enumerate("ab"):
        bases.adapted(engine, name, rank=seed + 2, seed=seed)
    engine.forward_backward({name: collate(bases.examples(4, seed=ord(name))) for name in "ba"})
    return {
        f"{name}/{key}": weight.grad.clone() for name in "ab" for key, weight in engine.policies[name].weights.items()
    }


def test_a_sliding_window_reaches_rows_end_to_end(bases: ModuleType) -> None:
    """Longer than the window, so that a mask is needed that transformers does not make."""
    torch.manual_seed(0)
    config = transformers.MistralConfig(**bases._GROUPED, sliding_window=6)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    examples = bases.examples(5, longest=30)
    expected = float(bases.reference_nll(model, examples).detach())
    assert any(len(example.token_ids) > 12 for example in examples)
    engine = Engine(Base(model, bases.small_tokenizer(), Source("mistral", "mistral")))
    assert engine.padding_free
    nats, tokens = engine.evaluate(["base"], examples)["base"]
    assert sum(nats) / sum(tokens) == pytest.approx(expected, abs=1e-5)


def test_a_base_that_scales_its_logits_in_its_own_way_keeps_its_head(bases: ModuleType) -> None:
    base = bases.small_base("llama")
    base.model.lm_head.register_forward_hook(lambda head, inputs, logits: 0.5 * logits)
    engine = Engine(base)
    assert not engine._unembedding.chunked
    assert engine.padding_free


def test_a_base_whose_layers_chunk_their_rows_is_left_its_attention(bases: ModuleType) -> None:
    base = bases.small_base("llama")
    base.model.config.layer_types = ["chunked_attention", "full_attention"]
    assert not Engine(base).padding_free
