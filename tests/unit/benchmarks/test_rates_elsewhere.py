"""The setting's terms are those that the measurements outside of the sweep give, and miss an unseen base by little."""

from __future__ import annotations

import math

import pytest
from benchmarks.rates_elsewhere import elsewhere, errors, fit, main

from lowregret.plan.rates.setting import BATCH_POWER, CONSTANT, SMALL_POWER, STEPS_POWER


def test_the_committed_terms_are_the_fitted_ones() -> None:
    constant, batch, steps, small, *_ = fit(list(elsewhere()))
    assert pytest.approx(math.exp(constant), abs=0.006) == CONSTANT
    assert pytest.approx(batch, abs=0.006) == BATCH_POWER
    assert pytest.approx(steps, abs=0.006) == STEPS_POWER
    assert pytest.approx(small, abs=0.006) == SMALL_POWER


def test_a_base_that_was_left_out_is_missed_by_less_than_a_factor_of_two_in_the_mean() -> None:
    cells = list(elsewhere())
    for base in {cell.model for cell in cells}:
        own, rest = ([cell for cell in cells if (cell.model == base) == here] for here in (True, False))
        away = errors(own, fit(rest))
        assert abs(sum(away) / len(away)) < math.log(2)


def test_the_command_prints_every_base(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    printed = capsys.readouterr().out
    assert all(f"| {cell.model} | " in printed for cell in elsewhere())
