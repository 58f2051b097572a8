"""Multiply-adds by kind, against the formulas of SCIENCE.md 3.9; tests/oracle holds them to torch's counter."""

from __future__ import annotations

import pytest

from lowregret.plan.flops import multiply_adds
from lowregret.plan.shapes import AttentionLayers, Shapes, Weight
from lowregret.plan.sources import find_model
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
