"""What rests on best learning rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lowregret.analysis.condition import Condition, Trial
from lowregret.analysis.fits import Estimate
from lowregret.analysis.rates import formula_over_found, formula_rate, log_ratios, loose, ratio, unless_loose
from lowregret.runs.records import TrialRecord
from lowregret.spec import FullFT, LoRA, Method, TrialSpec

LOW, HIGH, FULL = LoRA(rank=4), LoRA(rank=16), FullFT()


def test_a_note_on_a_best_rate_takes_the_interval_away() -> None:
    known = Estimate(value=1.5, low=1.4, high=1.6, n=3)
    assert unless_loose(known, "") == known
    assert unless_loose(known, "A best rate is not bracketed.") == Estimate(value=1.5, n=3)


@pytest.mark.parametrize(
    ("name", "hidden", "rate"),
    [("Llama-3.2-1B", 2048, 4.908e-4), ("Llama-3.1-8B", 4096, 2.856e-4), ("Qwen3-8B", 4096, 4.730e-4)],
)
def test_the_formula_gives_the_rates_that_are_printed_for_it(name: str, hidden: int, rate: float) -> None:
    """SCIENCE 4."""
    assert formula_rate(name, hidden) == pytest.approx(rate, rel=2e-4)


# --- over all ranks or none -------------------------------------------------------------------------------------------


def condition(without: Method | None = None) -> Condition:
    """Three seeds of each method at its best rate and beside it, 1e-3 and 1.25e-4; one of which every trial failed."""
    trials = []
    for method in (LOW, HIGH, FULL):
        centre = 1.25e-4 if method == FULL else 1e-3
        for seed in range(3):
            for place, loss in ((0.5, 1.1), (1.0, 1.0), (2.0, 1.12)):
                spec = TrialSpec(method=method, learning_rate=centre * place, seed=seed)
                ended: dict[str, Any] = {"status": "finished", "test_nll": loss + 0.001 * seed * place}
                record = TrialRecord.of(spec, **({"status": "failed"} if method == without else ended))
                trials.append(Trial(record, Path(), {}, {}, None))
    nothing: Any = None  # a ratio does not ask for the group's spec
    return Condition("main", nothing, (LOW, HIGH, FULL), tuple(trials), 2.0, 128)


def test_a_ratio_is_over_all_the_ranks_that_it_names() -> None:
    found, note, by_seed = ratio(condition(), [LOW.name, HIGH.name])
    assert found is not None
    assert found.value == pytest.approx(8.0, rel=1e-3)
    assert found.known
    assert (note, len(by_seed)) == ("", 3)


@pytest.mark.parametrize("without", [LOW, HIGH, FULL])
def test_a_ratio_over_fewer_is_not_told(without: Method) -> None:
    there, names = condition(without), [LOW.name, HIGH.name]
    found, note = log_ratios(there, names)
    assert found == {}
    assert without.name in note
    assert ratio(there, names) == (None, note, {})
    assert loose(there, [*names, FULL.name])
    assert (formula_over_found(there, "Llama-3.2-1B")[0] is None) is (without != FULL)


def test_a_ratio_of_no_rank_is_none() -> None:
    assert log_ratios(condition(), [])[0] == {}
