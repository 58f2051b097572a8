"""The driver of a contest: what failed is not tried again by every stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lowregret.runs.atomic import write_json
from lowregret.runs.records import TrialRecord
from lowregret.spec import CompareSpec, TrialSpec
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
