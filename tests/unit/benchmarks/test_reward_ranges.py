"""The ranges of rates by reward, of the tables that are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.reward_ranges import ranges

from lowregret.analysis.condition import FULL
from lowregret.questions.rl.claims import times_as_wide

RESULTS = Path(__file__).parents[3] / "docs" / "results"


@pytest.mark.parametrize(("study", "rank"), [("studies_full", "lora:1"), ("tiny_studies", "lora:64")])
def test_whose_range_is_wider_is_open_in_both_studies(study: str, rank: str) -> None:
    """Ends lie anywhere between a good rate and a collapse, and of one rank the highest rate tried was good."""
    found = ranges(RESULTS / study / "trials.csv")
    assert set(found) == {FULL, "lora:1", "lora:4", "lora:16", "lora:64"}
    assert all(len(own) == 3 for own in found.values())
    assert found[FULL][0].high.give > 0, "FullFT's training breaks down from one rate to the next"
    assert [name for name, own in found.items() if not all(one.closed for one in own.values())] == [rank]
    wider, note = times_as_wide(found, [name for name in found if name != FULL])
    assert wider is not None
    assert wider.low is not None
    assert wider.low < 1
    assert wider.high is None
    assert rank in note
