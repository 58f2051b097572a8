"""Rows end to end: each attends to itself alone, whatever the others' lengths, and padding costs nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gpu_kernels import GPU
from lowregret.data.batches import collate
from lowregret.data.example import Example
from lowregret.engine import Engine
from lowregret.engine.forward import attention
from lowregret.engine.forward.attention import VarlenRows, attend, configurations, patched_attention
from lowregret.engine.forward.layout import lay_out
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
    rows = VarlenRows.of(lengths, CPU).grid
    assert rows.keys is None
    assert all(group.before == 0 and group.seen is None for group in rows.groups)
    assert sum(group.rows for group in rows.groups) == len(lengths)
    assert rows.slots == sum(group.rows * group.length for group in rows.groups)
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
@pytest.mark.parametrize("varlen", [False, True])
def test_each_row_attends_to_itself_alone(lengths: list[int], window: int | None, kv_heads: int, varlen: bool) -> None:
    torch.manual_seed(0)
    total = sum(lengths)
    q, k, v = (torch.randn(total, heads, 8, dtype=torch.float64) for heads in (4, kv_heads, kv_heads))
    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    states = [x.transpose(0, 1)[None] for x in inputs]
    rows = VarlenRows.of(lengths, CPU, varlen=varlen)
    out, _ = attend(nn.Module(), *states, None, rows=rows, scaling=0.3, sliding_window=window)
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


HEADS = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(1, 20), min_size=0, max_size=5)), min_size=1, max_size=5
)
"""Rows that others may go on from, and the lengths of those others."""


@given(HEADS, st.none() | st.integers(1, 40), st.sampled_from([0, 200, 2**22, None]))
def test_rows_that_go_on_from_another_see_all_of_it(
    heads: list[tuple[int, list[int]]], window: int | None, mask_slots: int | None
) -> None:
    """Against whole rows by the definition, with gradients; whether rows of unlike heads share a mask or not, and as
    they lie (None)."""
    lengths, after = [], []
    for head, others in heads:
        place = len(lengths)
        lengths += [head, *others]
        after += [None, *([place] * len(others))]
    torch.manual_seed(0)
    states = [torch.randn(sum(lengths), 2, 8, dtype=torch.float64) for _ in range(3)]
    mine, its = ([x.clone().requires_grad_() for x in states] for _ in range(2))
    rows = VarlenRows.of(lengths, CPU, after, varlen=mask_slots is None)
    if mask_slots is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attention, "MASK_SLOTS", mask_slots)
            assert rows.grid.slots >= sum(lengths)  # made now
    asked = {"rows": rows, "scaling": 0.3, "sliding_window": window}
    out, _ = attend(nn.Module(), *(x.transpose(0, 1)[None] for x in mine), None, **asked)
    pieces = [x.split(lengths) for x in its]
    expected = []
    for row, head in enumerate(after):
        whole = [piece[row] if head is None else torch.cat([piece[head], piece[row]]) for piece in pieces]
        expected.append(alone(*whole, 0.3, window)[-lengths[row] :])
    target = torch.randn_like(out)
    (out * target).sum().backward()
    (torch.cat(expected) * target[0]).sum().backward()
    torch.testing.assert_close(out[0], torch.cat(expected))
    for found, wanted in zip(mine, its, strict=True):
        torch.testing.assert_close(found.grad, wanted.grad)


def test_a_mask_for_each_row_is_only_made_where_heads_differ_and_it_is_small() -> None:
    alike = VarlenRows.of([30, 9, 8, 9], CPU, [None, 0, 0, 0])
    assert [group.seen.shape for group in alike.grid.groups if group.seen is not None] == [(1, 1, 9, 39)]
    unlike = VarlenRows.of([30, 9, 9, 28, 9, 9], CPU, [None, 0, 0, None, 3, 3])
    assert [group.seen.shape for group in unlike.grid.groups if group.seen is not None] == [(4, 1, 9, 39)]
    large = VarlenRows.of([2000, 999, 999, 1990, 999, 999], CPU, [None, 0, 0, None, 3, 3])
    assert [group.seen.shape for group in large.grid.groups if group.seen is not None] == [
        (1, 1, 999, 2989),
        (1, 1, 999, 2999),
    ]


@pytest.mark.parametrize(("device", "grouped"), [("cpu", True), ("meta", False)])
def test_a_mask_goes_with_heads_that_share_keys_on_a_cpu_only(
    monkeypatch: pytest.MonkeyPatch, device: str, grouped: bool
) -> None:
    """Elsewhere torch has a fused kernel for either, not for both: keys are repeated. (`meta` stands for a GPU.)"""
    asked, own = [], F.scaled_dot_product_attention

    def watched(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **how: Any) -> Tensor:
        asked.append((mask is not None, k.shape[1], how["enable_gqa"]))
        return own(q, k, v, mask, **how)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    lengths, after = [12, 5, 5], [None, 0, 0]
    q, k, v = (torch.zeros(1, heads, sum(lengths), 8, device=device) for heads in (4, 2, 2))
    out, _ = attend(nn.Module(), q, k, v, None, rows=VarlenRows.of(lengths, torch.device(device), after))
    assert out.shape == (1, 22, 4, 8)
    assert asked == [(False, 2, True), (True, 2 if grouped else 4, grouped)]


@pytest.mark.parametrize(
    ("width", "value_width", "taken"), [(8, 8, True), (6, 6, False), (8, 16, False), (264, 264, False)]
)
def test_heads_that_the_kernel_does_not_take_are_taken_by_groups(
    monkeypatch: pytest.MonkeyPatch, width: int, value_width: int, taken: bool
) -> None:
    calls = []
    monkeypatch.setattr(attention, "varlen", lambda states, *_, **how: calls.append(how) or torch.zeros_like(states[0]))
    q, k, v = (torch.randn(1, 2, 9, wide) for wide in (width, width, value_width))
    rows = VarlenRows.of([4, 5], CPU, varlen=GPU.varlen)
    out, _ = attend(nn.Module(), q, k, v, None, rows=rows, sliding_window=3)
    assert calls == ([{"scaling": None, "window": 3}] if taken else [])
    assert out.shape == (1, 9, 2, value_width)


def test_what_is_not_finite_stays_with_the_rows_that_see_it() -> None:
    lengths, after = [12, 5, 9, 3, 4, 7], [None, 0, 0, None, 3, 3]
    states = [torch.randn(sum(lengths), 2, 4, requires_grad=True) for _ in range(3)]
    spoiled = [torch.cat([torch.full_like(x[:26], math.nan), x[26:]]).detach().requires_grad_() for x in states]
    asked = {"rows": VarlenRows.of(lengths, CPU, after), "scaling": 0.3}
    kept = []
    for inputs in (states, spoiled):
        out, _ = attend(nn.Module(), *(x.transpose(0, 1)[None] for x in inputs), None, **asked)
        out[0, 26:].sum().backward()
        kept.append([out[0, 26:], *(x.grad[26:] for x in inputs)])
    for own, beside in zip(*kept, strict=True):
        assert torch.equal(own, beside)


@pytest.mark.parametrize("asked", [{"softcap": 2.0}, {"s_aux": torch.zeros(1)}, {"dropout": 0.1}])
def test_what_it_does_not_compute_is_refused(asked: dict[str, Any]) -> None:
    x = torch.randn(1, 2, 3, 4)
    with pytest.raises(NotImplementedError):
        attend(nn.Module(), x, x, x, None, rows=VarlenRows.of([3], CPU), **asked)


def test_the_models_own_attention_comes_back(bases: ModuleType) -> None:
    model = bases.small_model("llama")
    configs = configurations(model)
    before = [config._attn_implementation for config in configs]
    with patched_attention(configs):
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


def test_a_layout_holds_a_shared_prompt_once(bases: ModuleType) -> None:
    """Three rows of one prompt among others, in any order; positions go on behind it."""
    prompt, other = tuple(range(2, 14)), tuple(range(20, 29))
    rows = [(*prompt, 30, 31), (*other, 40), (*prompt, 32), (*prompt, 33, 34, 35)]
    mask = [
        (False,) * len(p) + (True,) * (len(row) - len(p))
        for row, p in zip(rows, (prompt, other, prompt, prompt), strict=True)
    ]
    examples = [Example(row, counts) for row, counts in zip(rows, mask, strict=True)]
    batch = replace(collate(examples), prompts=torch.tensor([7, 3, 7, 7]))
    laid = lay_out({"a": batch}, ["a"], CPU, padded=False)
    own = [[13, 30], list(other), [13], [13, 33, 34]]
    assert laid.inputs["input_ids"][0].tolist() == [*prompt[:11], *(token for row in own for token in row)]
    places = [*range(11), 11, 12, *range(9), 11, 11, 12, 13]
    assert laid.inputs["position_ids"][0].tolist() == places
    assert laid.tokens == (batch.tokens,) == (len(places),)
    assert torch.equal(laid.inputs["input_ids"][0][laid.selected], picked({"a": batch}, "a", "input_ids"))
    assert laid.token_rows == (((0, 11), (0, 2), (1, 9), (2, 1), (3, 3)),)
    padded = lay_out({"a": batch}, ["a"], CPU, padded=True)
    assert torch.equal(padded.inputs["input_ids"], batch.input_ids)


def picked(batches: Any, order: str, field: str) -> Tensor:
    return torch.cat([getattr(batches[name], field)[batches[name].supervised] for name in order])


EXPECTED_PATH = {"gemma2": (False, True)}  # its attention caps scores, which stays its own matter


def test_each_architecture_finds_its_path(bases: ModuleType, architecture: str) -> None:
    engine = Engine(bases.small_base(architecture))
    assert (engine.padding_free, engine._unembedding.chunked) == EXPECTED_PATH.get(architecture, (True, True))


@pytest.mark.parametrize("padding_free", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
def test_every_path_gives_the_same_numbers(bases: ModuleType, padding_free: bool, chunked: bool) -> None:
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
    config = transformers.MistralConfig(**bases.GROUPED, sliding_window=6)
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
