"""The ranges of rates by reward, of the tables that are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.reward_ranges import gains, ranges, ratio

RESULTS = Path(__file__).parents[3] / "docs" / "results"


@pytest.mark.parametrize("study", ["studies_full", "tiny_studies"])
def test_whose_range_is_wider_is_open_in_both_studies(study: str) -> None:
    """By the rates tried, ends lie anywhere between a rate that is good and one at which training broke down."""
    found = {name: ranges(by_seed) for name, by_seed in gains(RESULTS / study / "trials.csv").items()}
    assert set(found) == {"full", "lora:1", "lora:4", "lora:16", "lora:64"}
    assert all(len(own) == 3 for own in found.values())
    wider = ratio(found)
    assert wider is not None
    assert wider.low is not None
    assert wider.high is not None
    assert wider.low < 1 < wider.high
    steep = found["full"][0].high
    assert steep.give > 0, "FullFT's collapses come all at once"
