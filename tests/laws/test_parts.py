"""LoRAs over a base that lies in parts, and sampling over ranks: what one process gives, with a share of its memory.

As in test_ranks.py, the oracle is one process that computes in passes what two ranks compute at once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sharded_sampling
from gloo import together
from sharded import IN_PARTS, Trained, refusals, train, train_all
from sharded_sampling import Found, sample, sample_all


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[list[Trained]]:
    folder = tmp_path_factory.mktemp("two")
    return together(2, "sharded", train_all, folder, folder, [(name, None) for name in IN_PARTS], True)


@pytest.mark.parametrize("name", IN_PARTS)
def test_a_base_in_parts_trains_as_a_whole_one(two: list[list[Trained]], name: str, tmp_path: Path) -> None:
    one = train(name, tmp_path, halves=2, parts=True)
    first, second = (found[list(IN_PARTS).index(name)] for found in two)
    assert first.before == one.before, "held-out batches are the same whoever computes them"
    assert first.losses == one.losses
    assert first.held_out == one.held_out
    assert first.saved == one.saved
    assert all(np.array_equal(first.weights[key], one.weights[key]) for key in one.weights)
    assert (second.losses, second.norms, second.held_out) == (first.losses, first.norms, first.held_out)
    for own, theirs in zip(first.logprobs, one.logprobs, strict=True):
        np.testing.assert_allclose(own, theirs, rtol=0, atol=1e-4)
    assert first.base + second.base == one.base
    assert max(first.base, second.base) <= 1.1 * one.base / 2


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> list[list[Found]]:
    return together(2, "sharded_sampling", sample_all, tmp_path_factory.mktemp("sampled"))


@pytest.mark.parametrize("name", sharded_sampling.CASES)
def test_ranks_sample_what_one_process_does(sampled: list[list[Found]], name: str) -> None:
    one = sample(name, alone=True)
    first, second = (found[list(sharded_sampling.CASES).index(name)] for found in sampled)
    assert first.decoder == one.decoder == sharded_sampling.CASES[name].decoder
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


def test_a_base_cut_in_another_type_takes_no_full_fine_tuning(tmp_path: Path) -> None:
    for said in together(2, "sharded", refusals, tmp_path):
        assert "parts of bfloat16" in said[0]
        assert "Leave base_in_parts out" in said[0]
