"""What the parent says of groups that others train."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from lowregret.questions.registry import make_question
from lowregret.runs.standing import GroupStanding
from lowregret.study.execute import local
from lowregret.study.execute.job import GroupJob, Task
from lowregret.study.execute.watch import Watch
from lowregret.study.observer import Silent
from unit.study import fake_studies

GROUP = make_question({"kind": "early", "ranks": [1, 4], "seeds": 2}).groups()[0]


class Seen(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.standings: list[Sequence[GroupStanding]] = []
        self.started: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def group_started(self, label: str) -> None:
        self.started.append(label)

    def groups(self, found: Sequence[GroupStanding]) -> None:
        self.standings.append(found)


def test_each_trial_that_ends_is_told_once_and_those_in_training_are_shown(tmp_path: Path) -> None:
    job = GroupJob(tmp_path / "groups" / GROUP.key, GROUP, "early main.lora", None)
    seen, now = Seen(), 100.0
    watch = Watch(seen, lambda: now)
    watch.begin(job)
    watch.look()
    assert seen.lines == []
    fake_studies.train(job.folder, GROUP, fake_studies.u_shaped)
    record = sorted(job.folder.glob("trials/*/trial.json"))[0]
    whole = record.read_text()
    record.write_text(json.dumps(json.loads(whole) | {"status": "running"}))
    watch.look()
    assert len(seen.standings) == 1, "not twice in a second"
    now = 102.0
    watch.look()
    assert len(seen.lines) == 3
    assert seen.lines[0].startswith("early main.lora 1/4: lora:1 at 0.001, seed 1: finished ")
    (standing,) = seen.standings[-1]
    assert standing.label == "early main.lora"  # the key alone is that of other questions' groups, too
    (running,) = standing.running
    assert standing.last[running.id].step == GROUP.steps
    record.write_text(whole)
    watch.end(job)
    assert len(seen.lines) == 4
    watch.begin(job)  # tried again: what had ended is not told again
    watch.end(job)
    assert len(seen.lines) == 4


def test_a_process_that_trains_groups_itself_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen()
    monkeypatch.setattr(local, "train", lambda task, observer, should_stop: seen.started.append("trained"))
    here = local.InProcess(seen, lambda: False, None)
    for label in ("early main.lora", "early main.full"):
        here.submit(Task(GroupJob(tmp_path / label, GROUP, label, None), {}))
        here.events(0.0)
    assert seen.started == ["early main.lora", "trained", "early main.full", "trained"]
