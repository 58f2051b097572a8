"""The best rate of a method under a condition of a study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lowregret.analysis.condition import BestOverSeeds, Condition, Trial
from lowregret.runs.records import TrialRecord
from lowregret.spec import LoRA, TrialSpec

METHOD = LoRA(rank=4)


def best(losses: Mapping[float, float | None]) -> BestOverSeeds:
    """By learning rate; None where it diverged."""
    trials = []
    for rate, loss in losses.items():
        spec = TrialSpec(method=METHOD, learning_rate=rate, seed=0)
        status = "diverged" if loss is None else "finished"
        record = TrialRecord.model_validate(
            {
                "id": spec.id,
                "method": METHOD.name,
                "learning_rate": rate,
                "seed": 0,
                "status": status,
                "spec": spec,
                "test_nll": loss,
            }
        )
        trials.append(Trial(record, Path(), {}, {}, None))
    nothing: Any = None  # a best rate does not ask for the group's spec
    found = Condition("main", nothing, (METHOD,), tuple(trials), 3.0, 128).best(METHOD.name)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("losses", "rate", "bracketed"),
    [
        ((2.0, 1.0, 1.0, 1.0, 2.0), 4e-3, True),
        ((2.0, 1.0, 1.0, 2.0, 2.0), 2e-3, True),
        ((1.0, 1.0, 1.0, 2.0, 2.0), 2e-3, False),
        ((2.0, 2.0, 1.0, 1.0, 1.0), 8e-3, False),
        ((2.0, 1.0, 1.0, 1.0, None), 4e-3, True),
    ],
    ids=["three", "two: the lower", "to the lowest rate", "to the highest rate", "beside one that diverged"],
)
def test_of_equal_losses_the_middle_is_best_and_the_plateau_is_bracketed(
    losses: tuple[float | None, ...], rate: float, bracketed: bool
) -> None:
    found = best({1e-3 * 2**place: loss for place, loss in enumerate(losses)})
    assert found.learning_rate == pytest.approx(rate)
    assert found.bracketed is bracketed


def test_beside_a_rate_that_diverged_the_lattice_is_all_there_is() -> None:
    found = best({1e-3: 2.0, 2e-3: 1.0, 4e-3: None})
    assert found.fitted == {0: pytest.approx(-8.96578, abs=1e-5)}, "log2 of 0.002"
    assert found.bottoms == {}


def test_the_bottom_is_read_off_the_parabola_by_hand() -> None:
    """Rises of 0.3 below and 0.1 above: a quarter of a doubling up, and 0.2² / (8 · 0.4) = 0.0125 down."""
    found = best({1e-3: 1.3, 2e-3: 1.0, 4e-3: 1.1})
    assert found.fitted == {0: pytest.approx(-8.96578 + 0.25, abs=1e-5)}
    assert found.bottoms == {0: pytest.approx(1.0 - 0.0125)}
