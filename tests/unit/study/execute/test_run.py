"""Who trains next, who is tried again, and what is given up, with an engine that does what the test says."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lowregret.errors import ClusterError, RecordsError, SpecError, StoreError
from lowregret.questions.registry import make_question
from lowregret.runs.lock import lock_run
from lowregret.runs.records import TrialRecord
from lowregret.spec import LoRA, TrialSpec
from lowregret.study.execute.job import Ended, GroupJob, Needs, Outcome, Task
from lowregret.study.execute.run import TRIES, GroupRun
from lowregret.study.observer import Silent
from lowregret.train.interrupt import Interrupted

DONE = Outcome("done")


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


class Played:
    """An engine with room for so many, of which each attempt ends as `end` says, the last begun first."""

    name, watches = "a play", True

    def __init__(self, end: Callable[[Task], Outcome], room: int = 1) -> None:
        self._end, self._room = end, room
        self.running: list[Task] = []
        self.begun: list[Task] = []
        self.cancelled = False

    def has_room(self, needs: Needs) -> bool:
        return len(self.running) < self._room

    def submit(self, task: Task) -> None:
        self.running.append(task)
        self.begun.append(task)

    def events(self, seconds: float) -> Sequence[Ended]:
        return [Ended(task, self._end(task)) for task in [self.running.pop()]] if self.running else []

    def cancel(self) -> None:
        self.cancelled = True

    def close(self) -> None: ...


def jobs(folder: Path, count: int = 2) -> list[GroupJob]:
    groups = make_question({"kind": "layers"}).groups()
    made = [group.model_copy(update={"condition": f"c{number}"}) for number, group in enumerate([groups[0]] * count)]
    return [GroupJob(folder / "groups" / group.key, group, f"layers {group.key}", None) for group in made]


def run(engine: Played, todo: Sequence[GroupJob], heard: Silent | None = None, **options: object) -> None:
    told = {"starts": lambda job: {}, "ended": lambda job: (), **options}
    stop = told.pop("should_stop", lambda: False)
    GroupRun(engine, heard or Silent(), stop, **told).run(todo)  # type: ignore[arg-type]


def training(job: GroupJob, *names: float) -> None:
    """Leave trials that are in training, at these rates."""
    for rate in names:
        trial = TrialSpec(method=LoRA(rank=1), learning_rate=rate)
        home = job.folder / "trials" / trial.id
        home.mkdir(parents=True, exist_ok=True)
        record = TrialRecord.of(trial, status="running")
        (home / "trial.json").write_text(json.dumps(record.model_dump(mode="json")))


def test_an_error_is_said_while_the_others_go_on_and_raised_at_the_end(tmp_path: Path) -> None:
    todo = jobs(tmp_path, 3)
    failing = {todo[1].folder: SpecError("no 'experts' matrix"), todo[0].folder: SpecError("the last")}
    engine, heard = Played(lambda task: Outcome("failed", failing[task.job.folder]), room=2), Heard()
    with pytest.raises(SpecError, match="experts"):
        run(engine, todo, heard)
    assert [task.job for task in engine.begun] == todo[:2], "nothing else is begun"
    assert len([line for line in heard.lines if "goes on to its end" in line]) == 1
    assert "layers c1.lora: no 'experts' matrix\nNothing else is begun; this goes on to its end: layers c0.lora" in (
        "\n".join(heard.lines)
    )


def test_what_comes_of_a_group_that_is_trained_stops_no_other_and_may_bring_more(tmp_path: Path) -> None:
    todo = jobs(tmp_path, 3)
    told: list[GroupJob] = []

    def ended(job: GroupJob) -> Sequence[GroupJob]:
        told.append(job)
        if job == todo[0]:
            raise RecordsError("damaged")
        return [todo[2]] if job == todo[1] and told.count(job) == 1 else []

    with pytest.raises(RecordsError, match="damaged"):
        run(Played(lambda task: DONE, room=2), todo[:2], ended=ended)
    assert told == [todo[1], todo[2], todo[0]]
    told.clear()
    run(Played(lambda task: DONE), todo[1:2], ended=ended)
    assert told == [todo[1], todo[2]]


def test_a_group_waits_for_the_one_that_it_starts_from(tmp_path: Path) -> None:
    first, second = jobs(tmp_path)
    after = GroupJob(second.folder, second.spec, second.label, first.folder)
    engine = Played(lambda task: DONE, room=2)
    run(engine, [after, first])
    assert [task.job for task in engine.begun] == [first, after]


def test_a_lost_group_is_tried_again_and_its_trials_given_up_when_it_comes_no_further(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, 1)
    training(job, 1e-3, 2e-3)
    ids = {path.parent.name for path in job.folder.glob("trials/*/trial.json")}
    heard = Heard()
    engine = Played(lambda task: DONE if task.given_up else Outcome("lost", why="killed"))
    run(engine, [job], heard)
    assert [set(task.given_up) for task in engine.begun] == [set()] * TRIES + [ids]
    assert all(reason == f"{TRIES} workers were lost at it, the last because killed" for reason in
               engine.begun[-1].given_up.values())  # fmt: skip
    assert sum("goes on from its last checkpoint" in line for line in heard.lines) == TRIES - 1


def test_a_group_that_comes_further_each_time_is_never_given_up(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, 1)
    training(job, 1e-3)
    metrics = next(job.folder.glob("trials/*")) / "metrics.jsonl"
    left = 3 * TRIES

    def end(task: Task) -> Outcome:
        nonlocal left
        left -= 1
        metrics.write_text("{}\n" * (100 - left))
        return Outcome("lost", why="preempted") if left else DONE

    engine = Played(end)
    run(engine, [job])
    assert len(engine.begun) == 3 * TRIES
    assert not any(task.given_up for task in engine.begun)


def test_workers_lost_before_a_trial_began_are_an_error(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, 1)
    with pytest.raises(RecordsError, match="3 workers were lost before a trial began, the last because out of memory"):
        run(Played(lambda task: Outcome("lost", why="out of memory")), [job])


def test_one_that_was_stopped_by_a_signal_goes_on_and_counts_as_no_loss(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, 1)
    left = 2 * TRIES

    def end(task: Task) -> Outcome:
        nonlocal left
        left -= 1
        return Outcome("stopped") if left else DONE

    engine = Played(end)
    run(engine, [job])
    assert len(engine.begun) == 2 * TRIES


def test_a_group_that_another_process_trains_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = jobs(tmp_path)
    heard = Heard()
    with lock_run(first.folder):
        engine = Played(lambda task: DONE, room=2)
        with pytest.raises(Interrupted):
            run(engine, [first, second], heard, should_stop=lambda: bool(engine.begun and not engine.running))
    assert [task.job for task in engine.begun] == [second]
    assert any("is training it; waiting for that" in line for line in heard.lines)
    assert engine.cancelled


def test_what_will_never_have_room_is_told_before_anything_is_begun(tmp_path: Path) -> None:
    class Small(Played):
        def has_room(self, needs: Needs) -> bool:
            if needs.gpus:
                raise ClusterError("no node has that")
            return super().has_room(needs)

    first, second = jobs(tmp_path)
    engine = Small(lambda task: DONE)
    with pytest.raises(ClusterError, match="no node has that"):
        run(engine, [first, replace(second, needs=Needs(gpus=4))])
    assert engine.begun == []


def test_a_stop_is_passed_on(tmp_path: Path) -> None:
    engine = Played(lambda task: Outcome("stopped"))
    with pytest.raises(Interrupted):
        run(engine, jobs(tmp_path), should_stop=lambda: True)
    assert engine.cancelled


def test_no_trial_is_given_up_for_a_store_that_does_not_answer(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, 1)
    training(job, 1e-3)
    engine = Played(lambda task: Outcome("lost", StoreError("no answer"), "no answer"))
    with pytest.raises(StoreError, match="no answer"):
        run(engine, [job])
    assert len(engine.begun) == TRIES
    assert not any(task.given_up for task in engine.begun)
