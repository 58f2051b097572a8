"""Multiply-adds by kind, against the formulas of SCIENCE 3.9; tests/oracle holds them to torch's counter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lowregret.data.batches import collate
from lowregret.data.example import Example
from lowregret.plan.resources.flops import NO_SHARED_PREFIX, SharedPrefix, multiply_adds, shared_adds
from lowregret.plan.shapes.lookup import find_model
from lowregret.plan.shapes.weights import AttentionLayers, Shapes, Weight
from lowregret.spec import FullFT, LoRA


def square(width: int) -> Shapes:
    """Three layers of one matrix, width × width, that reads no embedding."""
    weight = Weight("model.layers.*.self_attn.o_proj.weight", "attention", (width, width), 3, 3, layers=(0, 1, 2))
    return Shapes("square", "llama", width, 3, 1, None, None, 0, 0, (weight,), ())


@pytest.mark.parametrize(("width", "rank"), [(600, 1), (600, 100), (64, 16)])
def test_a_square_matrix(width: int, rank: int) -> None:
    """FullFT 3N², LoRA 2N² + 6NR; at R = N/6 they cost the same."""
    lora = multiply_adds(square(width), LoRA(rank=rank, targets=("attention",)), 8)
    assert multiply_adds(square(width), FullFT(), 8).total == 3 * 3 * width**2
    assert lora.total == 3 * (2 * width**2 + 6 * width * rank)
    assert lora.forward["adapters"] == 3 * 2 * width * rank
    assert (lora.total == 3 * 3 * width**2) == (rank * 6 == width)


def test_only_supervised_positions_reach_the_unembedding() -> None:
    shapes = find_model("Llama-3.1-8B")
    whole, half = (multiply_adds(shapes, FullFT(), 512, share) for share in (1.0, 0.5))
    assert whole.forward["unembedding"] == 128256 * 4096
    assert half.forward["unembedding"] == whole.forward["unembedding"] / 2
    assert half.forward["mlp"] == whole.forward["mlp"]


def test_a_mixture_computes_with_the_experts_chosen() -> None:
    shapes = find_model("Qwen3-30B-A3B")
    found = multiply_adds(shapes, FullFT(), 512).forward
    assert found["experts"] == 48 * 8 * 3 * 768 * 2048
    assert found["router"] == 48 * 128 * 2048


def test_scores_grow_with_the_length_until_the_window() -> None:
    def scores(length: int, window: int | None) -> float:
        group = AttentionLayers(2, 4, 2, 16, 16, window)
        shapes = Shapes("scores", "llama", 64, 2, 1, None, None, 0, 0, (), (group,))
        return multiply_adds(shapes, FullFT(), length).forward["scores"]

    assert scores(1023, None) == pytest.approx(2 * scores(511, None))
    assert scores(4096, 64) == pytest.approx(scores(2048, 64), rel=0.02)
    assert scores(64, 64) == scores(64, None)


def test_mlp_only_spares_the_backward_pass_of_the_first_attention() -> None:
    shapes = find_model("Llama-3.1-8B")
    everywhere, only = (multiply_adds(shapes, LoRA(rank=4, targets=t), 512) for t in (("attention", "mlp"), ("mlp",)))
    assert only.backward["attention"] < everywhere.backward["attention"]
    assert only.backward["scores"] == pytest.approx(31 / 32 * everywhere.backward["scores"])


@pytest.mark.parametrize("window", [None, 10])
def test_a_shared_prompt_is_counted_once_a_group(window: int | None) -> None:
    """Token by token: 3 groups of 4 rows with prompts of 20 and completions of 12 tokens."""
    prompt, completion, group, rows = 20, 12, 4, 12
    attention = AttentionLayers(layers=1, heads=2, kv_heads=1, key_width=3, value_width=5, window=window)
    shapes, shared = replace(square(64), attention=(attention,)), SharedPrefix(prompt, group)
    length = prompt + completion
    computed = rows * length - shared.spared(rows)
    assert computed == 3 * (prompt + 4 * completion)
    found = shared_adds(shapes, LoRA(rank=4, targets=("attention",)), length, completion / length, shared)
    pairs = [min(position + 1, window or length) for position in range(length)]
    assert found.forward["scores"] * computed == pytest.approx(
        2 * (3 + 5) * 3 * (sum(pairs[:prompt]) + 4 * sum(pairs[prompt:]))
    )
    assert found.backward["scores"] == pytest.approx(2 * found.forward["scores"])
    assert found.forward["attention"] == pytest.approx(3 * 64**2), "a token that is computed passes every layer"


def test_only_completions_reach_the_unembedding_and_each_does() -> None:
    shapes = find_model("Llama-3.1-8B")
    found = shared_adds(shapes, LoRA(rank=4), 100, 0.25, SharedPrefix(75, 3)).forward["unembedding"]
    assert found == pytest.approx(128256 * 4096 * 3 * 25 / (75 + 3 * 25))


def test_groups_of_one_and_empty_prompts_share_nothing() -> None:
    shapes, method = find_model("tiny"), LoRA(rank=4)
    alone = multiply_adds(shapes, method, 64, 0.5)
    for shared in (NO_SHARED_PREFIX, SharedPrefix(32, 1), SharedPrefix(0, 8)):
        assert shared_adds(shapes, method, 64, 0.5, shared) == alone


@pytest.mark.parametrize(("rows", "groups"), [(8, 2), (6, 2), (3, 1), (1, 1)])
def test_as_many_tokens_are_spared_as_the_engine_spares(rows: int, groups: int) -> None:
    """Of a group's prompt the engine shares all but the last token, which it counts to the completion."""
    example = Example(tuple(range(30)), (False,) * 20 + (True,) * 10)
    batch = replace(collate([example] * rows), prompts=torch.arange(rows) // 4)
    assert rows * 30 - SharedPrefix(20, 4).spared(rows) == batch.tokens + groups
