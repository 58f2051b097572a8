"""What the parent says of groups that others train."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lowregret.questions.registry import make_question
from lowregret.runs.standing import GroupStanding
from lowregret.study.execute.job import GroupJob
from lowregret.study.execute.watch import Watch
from lowregret.study.observer import Silent
from unit.study import fake_studies

GROUP = make_question({"kind": "early", "ranks": [1, 4], "seeds": 2}).groups()[0]


class Seen(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.standings: list[Sequence[GroupStanding]] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

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
    (running,) = standing.running
    assert standing.last[running.id].step == GROUP.steps
    record.write_text(whole)
    watch.end(job)
    assert len(seen.lines) == 4
    watch.begin(job)  # tried again: what had ended is not told again
    watch.end(job)
    assert len(seen.lines) == 4
