"""The parent of the processes that train groups: what it says while they do."""

from __future__ import annotations

from multiprocessing import Pipe
from pathlib import Path

import pytest

from lowregret.errors import RecordsError, SpecError
from lowregret.questions.registry import make_question
from lowregret.study.execute.local import GroupJob, _Parent
from lowregret.study.observer import Silent


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_what_is_wrong_with_a_group_is_said_while_the_others_go_on() -> None:
    groups = make_question({"kind": "moe"}).groups()
    jobs = [GroupJob(Path(group.key), group, f"moe {group.key}", None) for group in groups]
    heard, pipes = Heard(), [Pipe() for _ in jobs]
    parent = _Parent(jobs, [ours for ours, _ in pipes], lambda job: {}, heard, lambda: False, lambda job: None)
    parent._busy = {ours: job for (ours, _), job in zip(pipes, jobs, strict=True)}
    pipes[0][1].send(("error", SpecError("no 'experts' matrix")))
    parent._listen(pipes[0][0])
    assert len(heard.lines) == 1
    assert "moe main.lora: no 'experts' matrix" in heard.lines[0]
    assert "goes on to its end: moe main.full" in heard.lines[0]
    pipes[1][1].send(("error", SpecError("the last")))
    parent._listen(pipes[1][0])
    assert len(heard.lines) == 1, "the last to end has nobody to wait for: its error is raised"


def test_each_group_that_is_trained_is_told_and_what_comes_of_it_stops_no_other() -> None:
    groups = make_question({"kind": "moe"}).groups()
    jobs = [GroupJob(Path(group.key), group, f"moe {group.key}", None) for group in groups]
    pipes, told = [Pipe() for _ in jobs], []

    def ended(job: GroupJob) -> None:
        told.append(job)
        raise RecordsError("damaged")

    parent = _Parent(jobs, [ours for ours, _ in pipes], lambda job: {}, Silent(), lambda: False, ended)
    parent._busy = {ours: job for (ours, _), job in zip(pipes, jobs, strict=True)}
    for ours, theirs in pipes:
        theirs.send(("done", None))
        parent._listen(ours)
    assert told == jobs
    parent._waiting = []
    with pytest.raises(RecordsError, match="damaged"):
        parent.run()
