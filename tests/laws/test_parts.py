"""A base that lies in parts, and sampling over ranks: what one process gives, with a share of its memory.

As in test_ranks.py, the oracle is one process that computes in passes what two ranks compute at once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from bases import small_base
from gloo import together
from lowregret.models.files import BUNDLED
from sharded import IN_PARTS, train
from sharded_parts import CASES, Everything, everything, filled, sample

BY_ROWS = ("LoRA with dropout", "DoRA", "other layers", "one row a pass")
"""LoRAs whose rows lie on both ranks: a processor may round their gradients otherwise (test_ranks.py)."""
FILLED = (("tiny", "float32"), ("qwen3", "bfloat16"), ("llama", "float32"), ("qwen3_moe", "bfloat16"))
"""Bases that are read part by part, and in which precision: tied, not tied, experts that files hold one by one."""
BROKEN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of bases on the disk: by architecture, one with a number that is none, and one without a norm."""
    found = {"tiny": BUNDLED / "tiny"}
    for name in ("qwen3", "llama", "qwen3_moe", "broken", "short"):
        base = small_base(name if name in ("qwen3", "llama", "qwen3_moe") else "llama")
        found[name] = tmp_path_factory.mktemp(name)
        base.tokenizer.save_pretrained(found[name])
        if name == "broken":
            base.model.get_parameter(BROKEN).data[-1, 3] = torch.nan
        _save(base.model, found[name], "model.norm.weight" if name == "short" else None)
    return found


def _save(model: PreTrainedModel, folder: Path, without: str | None) -> None:
    weights = {name: weight for name, weight in model.state_dict().items() if name != without}
    model.save_pretrained(folder, state_dict=weights)


@pytest.fixture(scope="module")
def two(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Everything]:
    folder = tmp_path_factory.mktemp("two")
    asked = [(folders[name], precision) for name, precision in FILLED]
    return together(2, "sharded_parts", everything, folder, folder, asked, folders["broken"], folders["short"])


@pytest.mark.parametrize("name", IN_PARTS)
def test_a_base_in_parts_trains_as_a_whole_one(two: list[Everything], name: str, tmp_path: Path) -> None:
    plain = name == "FullFT, bfloat16"  # by an engine that does not know that the base will train
    one = train(name, tmp_path, halves=2, parts=not plain)
    first, second = (found.trained[list(IN_PARTS).index(name)] for found in two)
    assert first.before == one.before, "held-out batches are the same whoever computes them"
    if name in BY_ROWS:
        np.testing.assert_allclose(first.losses, one.losses, rtol=0, atol=1e-5)
        assert all(np.abs(first.weights[key] - one.weights[key]).max() < 1e-4 for key in one.weights)
    else:
        assert first.losses == one.losses
        assert first.held_out == one.held_out
        assert first.saved == one.saved
    assert (second.losses, second.norms, second.held_out) == (first.losses, first.norms, first.held_out)
    for own, theirs in zip(first.logprobs, one.logprobs, strict=True):
        np.testing.assert_allclose(own, theirs, rtol=0, atol=0.2 if plain else 1e-4)
    assert first.base + second.base == one.base
    assert max(first.base, second.base) <= 1.1 * one.base / 2


@pytest.mark.parametrize("name", CASES)
def test_ranks_sample_what_one_process_does(two: list[Everything], name: str) -> None:
    one = sample(name, alone=True)
    first, second = (found.sampled[list(CASES).index(name)] for found in two)
    assert first.decoder == one.decoder == CASES[name].decoder
    assert first.completions == second.completions, "to the bit"
    assert (first.streamed, first.told, first.cut) == (second.streamed, second.told, second.cut)
    assert (first.told, len(first.cut.token_ids), first.cut.finished) == (list(first.streamed.token_ids), 2, False)
    apart = 0.1 if "bfloat16" in name else 1e-4
    pairs = [(first.streamed, one.streamed), (first.cut, one.cut)]
    for policy, own in one.completions.items():
        pairs += zip(first.completions[policy], own, strict=True)
    assert len({len(own.token_ids) for _, own in pairs}) > 2, "rows end at different steps"
    for found, own in pairs:
        assert (found.token_ids, found.finished) == (own.token_ids, own.finished)
        np.testing.assert_allclose(found.logprobs, own.logprobs, rtol=0, atol=apart)


@pytest.mark.parametrize(("name", "precision"), FILLED)
def test_ranks_read_their_parts_of_a_base(
    two: list[Everything], folders: dict[str, Path], name: str, precision: str
) -> None:
    """The same types and bytes as by one process that reads it whole, tables that no file holds among them."""
    one = filled(folders[name], precision, alone=True)
    found = [rank.filled[FILLED.index((name, precision))] for rank in two]
    assert all(own.digests == one.digests for own in found)
    assert sum(own.share for own in found) == pytest.approx(1)
    assert max(own.share for own in found) <= 1.1 / 2


def test_a_rank_holds_its_share_of_the_base(two: list[Everything]) -> None:
    """Of all tensors of the process, what a pass has gathered among them."""
    for rank in two:
        base, before, after = rank.held
        assert base / 2 < before < 1.1 * base / 2
        assert after < 1.1 * base / 2


def test_what_a_base_in_parts_cannot_be_is_refused(two: list[Everything]) -> None:
    for rank in two:
        full, broken, short = rank.refused
        assert "parts of bfloat16" in full
        assert "Make the engine with base_trains" in full
        assert f"{BROKEN.removesuffix('.weight')} holds numbers that are not finite (1 of its 512)" in broken
        assert "the files hold no model.norm.weight (1 of its weights are missing)" in short
