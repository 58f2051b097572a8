"""How far pilots are trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lowregret.analysis.forecast.banks import Bank
from lowregret.errors import SpecError
from lowregret.spec import CompareSpec
from lowregret.study.forecasting import forecast, pilot_step


def asked(evals: object, steps: int = 240) -> CompareSpec:
    return CompareSpec.model_validate(
        {"model": "tiny", "data": {"train": "builtin:arithmetic"}, "steps": steps, "evals": evals}
    )


def test_pilots_end_at_the_last_evaluation_within_their_share() -> None:
    assert pilot_step(asked(14), 240, 0.2) == 42
    assert pilot_step(asked([7, 24, 100]), 240, 0.1) == 24
    for steps in (44, 45, 46, 47):
        assert all(pilot_step(asked([step]), steps, step / steps) == step for step in range(1, steps // 2))


def test_a_budget_that_is_named_as_the_remedy_is_one(tmp_path: Path) -> None:
    spec = asked([45, 100], 444)
    with pytest.raises(SpecError, match=r"--budget 11%") as error:
        pilot_step(spec, 444, 0.1)
    assert "a list of steps" in str(error.value)
    assert pilot_step(spec, 444, 0.11) == 45
    with pytest.raises(SpecError, match=r"--evals 8, or a list of steps; in another --out") as error:
        pilot_step(asked(3), 240, 0.1)
    assert "--budget 50%" in str(error.value)
    assert pilot_step(asked(8), 240, 0.1) > 0
    assert pilot_step(asked(3), 240, 0.5) > 0
    with pytest.raises(SpecError, match=r"after step 1\. Ask for pilots of 5% \(--budget 5%\)\.$"):
        pilot_step(asked(9, 20), 20, 0.002)
    with pytest.raises(SpecError) as error:
        pilot_step(asked([200]), 240, 0.5)
    assert "--budget" not in str(error.value), "pilots of more than half are not taken"


def test_a_folder_is_not_bound_to_a_spec_of_which_nothing_can_be_forecast(tmp_path: Path) -> None:
    """The remedy, other evaluations, would be another spec."""
    with pytest.raises(SpecError, match="no held-out evaluation is within 10%"):
        forecast(asked([200]), tmp_path / "out", share=0.1, bank=Bank((), 0))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0.0, -1, 0.51, 1.0, 2.0, math.nan, math.inf, "10%", True])
def test_a_share_that_is_none_is_refused_before_the_folder_is_there(tmp_path: Path, share: Any) -> None:
    with pytest.raises(SpecError, match=rf"share {share!r}: give None, or a share .* up to 50%"):
        forecast(asked(8), tmp_path / "out", share=share, bank=Bank((), 0))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("share", "said"), [(0.002, "0.2%"), (0.0004, "0.04%"), (0.1, "10%")])
def test_a_share_is_said_as_it_was_given(share: float, said: str) -> None:
    with pytest.raises(SpecError, match=rf"no held-out evaluation is within {said} of the 240 steps"):
        pilot_step(asked([200]), 240, share)
