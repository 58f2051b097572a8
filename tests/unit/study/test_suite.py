"""What a budget and the engine mean to each other, with engines that train nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lowregret.errors import ClusterError, SpecError
from lowregret.plan.resources.hardware import find_hardware
from lowregret.questions.registry import make_question
from lowregret.runs.requests import is_paused, pause
from lowregret.runs.study import group_folder
from lowregret.study import suite
from lowregret.study.budget import Allowed
from lowregret.study.execute import choose as choosing
from lowregret.study.execute.choose import Chosen, Place, choose
from lowregret.study.execute.job import Ended, Expected, Needs, Outcome, Task
from lowregret.study.needs import Machines
from lowregret.study.observer import Silent
from lowregret.study.stages import Stages
from lowregret.train.interrupt import Interrupted
from unit.study import fake_studies

QUESTION = {"kind": "rank", "ranks": [1, 4], "seeds": 3}


class Endless:
    """One group that is trained in this process for as long as nobody stops it."""

    name, watches = "nothing", False

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop
        self._task: Task | None = None

    def has_room(self, needs: Needs) -> bool:
        return self._task is None

    def submit(self, task: Task) -> None:
        self._task = task

    def events(self, seconds: float) -> Sequence[Ended]:
        assert self._should_stop(), "the budget is spent, and the group was not told"
        assert self._task is not None
        return [Ended(self._task, Outcome("stopped"))]

    def cancel(self) -> None: ...

    def close(self) -> None: ...


def test_whoever_starts_a_study_ends_the_pause_of_a_group_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: Any) -> Chosen:
        raise Interrupted

    question = make_question(QUESTION)
    home = group_folder(tmp_path / "s", question.groups()[0])
    home.mkdir(parents=True)
    pause(home)
    monkeypatch.setattr(suite, "choose", stopped)
    with pytest.raises(Interrupted):
        suite.run_studies({tmp_path / "s": question})
    assert not is_paused(home)


def test_a_group_in_this_process_is_stopped_when_the_budget_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(
        place: Any, studies: Any, watching: Any, should_stop: Callable[[], bool], track: Any, stores: Any
    ) -> Chosen:
        return Chosen(Endless(should_stop), Machines(), 1, None, {})

    monkeypatch.setattr(suite, "choose", chosen)
    found = suite.run_studies({tmp_path / "s": make_question(QUESTION)}, budget=Allowed(seconds=1e-6))
    assert found == {}


class Nothing:
    """In the place of SLURM's jobs."""

    def __init__(self, *asked: object) -> None: ...


def test_slurm_jobs_are_paid_for_each_and_may_have_a_whole_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "SlurmJobs", Nothing)
    question = make_question(QUESTION)
    studies = {tmp_path / "s": question}
    found = choose(Place(slurm="gpu=H100"), studies, Silent(), lambda: False, None, {})
    assert found.at_once == len(question.groups()) > 1
    assert found.devices is not None
    assert found.devices >= 8
    stages = Stages(studies, lambda line: None)
    stages.place(found.machines, found.at_once, found.devices)
    jobs = stages.first()
    price = find_hardware("H100").price_per_hour
    assert price is not None
    assert found.price_per_hour(jobs) == pytest.approx(price * len(jobs))
    large = [replace(job, needs=Needs(4, gpus=4.0)) for job in jobs]
    assert found.price_per_hour(large) == pytest.approx(4 * price * len(jobs))


def test_whoever_asks_for_more_where_nothing_answers_finds_the_claims_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: Any) -> Chosen:
        raise ClusterError("nothing answers there")

    monkeypatch.setattr(suite, "choose", refused)
    done, new = tmp_path / "done", tmp_path / "new"
    fake_studies.make(done, make_question(QUESTION))
    before = {path.name: path.read_bytes() for path in done.glob("*.json")}
    assert "claims.json" in before
    with pytest.raises(ClusterError):
        suite.run_studies({done: make_question({**QUESTION, "seeds": 4})})
    assert {path.name: path.read_bytes() for path in done.glob("*.json")} == before
    with pytest.raises(ClusterError):
        suite.run_studies({new: make_question(QUESTION)})
    assert not new.exists()


def test_money_for_machines_of_which_no_price_is_known_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = {tmp_path / "s": Expected(tmp_path, tmp_path / "s", "", ())}
    chosen = Chosen(Endless(lambda: True), Machines(), 1, None, elsewhere)
    monkeypatch.setattr(suite, "choose", lambda *arguments: chosen)
    with pytest.raises(SpecError, match=r"--budget \$20: the price of these machines is not known"):
        suite.run_studies({tmp_path / "s": make_question(QUESTION)}, budget=Allowed(dollars=20))
    assert not (tmp_path / "s").exists()
