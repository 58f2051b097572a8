"""Curves: the smoothing invents nothing, and the mean is over the seeds at the best rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.report.charts.curves import POINTS, curve, smoothed, smoothing_window
from lowregret.report.reading import StudyRecords

VALUES = st.lists(st.floats(-100, 100), min_size=1, max_size=60)


@given(VALUES, st.integers(0, 10))
def test_smoothing_stays_within_the_values_and_keeps_steps_and_ends(values: list[float], half: int) -> None:
    points = tuple(enumerate(values))
    found = smoothed(points, 2 * half + 1)
    assert [step for step, _ in found] == [step for step, _ in points]
    assert all(min(values) - 1e-9 <= value <= max(values) + 1e-9 for _, value in found)
    assert found[0] == points[0]
    assert found[-1] == points[-1]


@given(st.integers(1, 80), st.integers(0, 12), st.floats(-2, 2), st.floats(-5, 5))
def test_smoothing_keeps_a_straight_line(length: int, half: int, slope: float, start: float) -> None:
    line = tuple((step, start + slope * step) for step in range(length))
    for (_, was), (_, became) in zip(line, smoothed(line, 2 * half + 1), strict=True):
        assert became == pytest.approx(was, abs=1e-9)


@given(st.integers(0, 10**6))
def test_window_is_odd_and_a_small_part_of_the_run(steps: int) -> None:
    window = smoothing_window(steps)
    assert window % 2 == 1
    assert window <= max(1, steps / 20 + 1)


def test_held_out_points_are_the_base_and_then_the_mean_over_seeds(study: StudyRecords) -> None:
    found = curve(study, "full")
    losses = [trial.test_nll for trial in study.trials_at_best("full") if trial.test_nll is not None]
    assert len(losses) == 3
    assert [step for step, _ in found.test] == [0, 30, 60, 120]
    assert found.test[0][1] == study.verdict.base_nll
    assert found.test[-1][1] == pytest.approx(sum(losses) / 3)


def test_long_runs_are_thinned_but_keep_their_last_step(study: StudyRecords) -> None:
    from dataclasses import replace

    from lowregret.runs.records import Metric

    trial = study.trials_at_best("full")[0]
    long = tuple(Metric(step=s, tokens=s, train_nll=1 + 1 / s, seconds=s) for s in range(1, 5 * POINTS + 8))
    found = curve(replace(study, trials=(trial,), metrics={trial.id: long}), "full")
    assert len(found.train) <= POINTS + 1
    assert found.train[-1][0] == 5 * POINTS + 7
