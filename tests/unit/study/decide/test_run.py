"""The driver of a contest: what failed is not tried again by every stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lowregret.analysis.forecast.banks import Bank
from lowregret.errors import RecordsError
from lowregret.runs.atomic import write_json
from lowregret.runs.records import TrialRecord
from lowregret.spec import CompareSpec, TrialSpec
from lowregret.study.decide import run as driver
from lowregret.study.decide.contest import Ask
from lowregret.study.decide.run import decide
from lowregret.study.observer import Silent


class Failing:
    """An opened comparison in which every trial fails, as one that does not fit in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = CompareSpec.model_validate({
            "model": "tiny", "data": {"train": "builtin:arithmetic"}, "methods": ["full", "lora:4"], "steps": 100,
            "until_decided": True,
        })  # fmt: skip
        self.priors = {"full": 1e-4, "lora:4": 1e-3}
        self.inputs = SimpleNamespace(steps=100, data=SimpleNamespace(test=range(8)))
        self.watching = Silent()
        self.asked: list[TrialSpec] = []

    def train(self, *, only: Sequence[TrialSpec], until: int | None, given_up: Mapping[str, str]) -> None:
        for trial in only:
            assert trial.id not in given_up
            self.asked.append(trial)
            home = self.folder / "trials" / trial.id
            home.mkdir(parents=True)
            write_json(home / "trial.json", TrialRecord.of(trial, status="failed", error="out of memory"))

    def rejudge(self) -> None:
        pass

    def judge(self) -> str:
        return "the verdict of all"


def test_what_failed_is_asked_for_once_and_the_verdict_is_that_of_all_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "base.json", {"test_nll": 2.0})
    comparison: Any = Failing(tmp_path)
    assert decide(comparison, None) == "the verdict of all"
    assert len(comparison.asked) == len(set(comparison.asked)) > 0


def test_that_there_is_no_forecast_is_said_once_not_at_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    comparison: Any = SimpleNamespace(folder=tmp_path, watching=SimpleNamespace(say=said.append))
    comparison.spec, comparison.train = None, lambda **_: None
    stages = iter([False, True, True, True])
    asked = Ask((), 10)

    def contest(_: Any) -> Any:
        done = next(stages, None)
        return SimpleNamespace(pilots_done=done is not False, next=lambda: None if done is None else asked)

    def nothing(*_: Any) -> None:
        raise RecordsError("the bank knows no pilots of that length")

    monkeypatch.setattr(driver, "_contest", contest)
    monkeypatch.setattr(driver, "entry_so_far", lambda folder: None)
    monkeypatch.setattr(driver, "make_forecast", nothing)
    monkeypatch.setattr(driver, "_settle", lambda *_: "settled")
    assert decide(comparison, Bank((), 0)) == "settled"
    assert said == ["no forecast: the bank knows no pilots of that length"]
