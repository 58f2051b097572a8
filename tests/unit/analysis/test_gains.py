"""Two gains, each by itself, from the records alone."""

from __future__ import annotations

from typing import Any

import pytest

from lowregret.analysis.decided import at_the_end
from lowregret.analysis.gains import measure_gains, seconds_alone, sentences
from lowregret.runs.records import TrialRecord
from lowregret.spec import LoRA, TrialSpec


def record(seed: int, **changed: Any) -> TrialRecord:
    spec = TrialSpec(method=LoRA(rank=1), learning_rate=1e-3, seed=seed)
    fields: dict[str, Any] = {"id": spec.id, "method": "lora:1", "learning_rate": 1e-3, "seed": seed, "spec": spec}
    return TrialRecord(**(fields | {"status": "finished", "steps": 100, "seconds": 10.0} | changed))


PACKED = {"pack_size": 4, "shared_seconds": 8.0, "shared_seconds_alone": 12.0}


def test_packing_is_the_time_of_the_same_steps_in_two_ways() -> None:
    trials = [record(0, **PACKED), record(1, **{**PACKED, "shared_seconds_alone": 20.0}), record(2)]
    gains = measure_gains(trials)
    assert (gains.packed_trials, gains.largest_pack) == (2, 4)
    assert (gains.shared_seconds, gains.shared_seconds_alone, gains.packing_gain) == (16.0, 32.0, 2.0)
    assert (gains.steps, gains.steps_left_out, gains.seconds_left_out) == (300, 0, 0.0)
    (said,) = sentences(gains, trials)
    assert said.startswith("Packing: 2 trials were trained together, up to 4 at once.")
    assert "took 16.0 s and would have taken about 32.0 s one trial after the other, 2 times as long" in said


def test_stopping_early_is_the_steps_that_were_not_taken() -> None:
    stopped = [record(1, status="pruned", steps=50, seconds=4.0), record(2, status="diverged", steps=0, seconds=0.1)]
    trials = [record(0), *stopped, record(3, status="failed", steps=3), record(4, status="running")]
    gains = measure_gains(trials)
    assert gains.packing_gain is None
    assert gains.steps_left_out == 50 + 100
    assert gains.seconds_left_out == pytest.approx(50 * 4.0 / 50)
    (said,) = sentences(gains, trials)
    assert said.startswith("Stopping early: pruned and diverged trials left out 150 of 403 steps (37 %)")


def test_pilots_are_called_so_and_count_with_the_steps_that_they_took() -> None:
    trials = at_the_end([record(0), record(0, status="running", steps=20, learning_rate=2e-3)])
    gains = measure_gains(trials)
    assert (gains.steps, gains.steps_left_out) == (120, 80)
    assert sentences(gains, trials)[0].startswith("Stopping early: pilots left out 80 of 200 steps")


def test_without_either_nothing_is_said() -> None:
    for records in ([], [record(0)], [record(0, status="pruned")]):
        assert sentences(measure_gains(records), records) == []


def test_the_time_alone_replaces_the_shared_steps_and_nothing_else() -> None:
    assert seconds_alone(record(0, **PACKED)) == pytest.approx(10.0 - 8.0 + 12.0)
    assert seconds_alone(record(0)) == 10.0
