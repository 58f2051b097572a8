"""What a run is asked while it trains is part of its records: killed at any step, it ends as it would have."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.repeated import numbers

from lowregret.engine import Engine
from lowregret.runs.files import METRICS, TRIAL
from lowregret.runs.metrics import read_metrics
from lowregret.runs.records import Metric, TrialRecord
from lowregret.runs.requests import Request, ask, go_on, pause, read_orders
from lowregret.spec import CompareSpec, DataSpec, FullFT, LoRA, TrialSpec
from lowregret.study import orders
from lowregret.study.observer import Silent
from lowregret.study.scheduler import Scheduler
from lowregret.train import pause as pauses
from lowregret.train.interrupt import Interrupted
from lowregret.train.sft.work import SFTWorkload

STUDY = CompareSpec(
    model="small",
    data=DataSpec(train="small"),
    methods=(LoRA(rank=1), FullFT()),
    learning_rates=(1e-3, 1e-2),
    seeds=1,
    batch_size=4,
    steps=4,
    evals=2,
    prune=None,
)
STOPPED = TrialSpec(method=LoRA(rank=1), learning_rate=1e-2)
MORE = TrialSpec(method=LoRA(rank=2), learning_rate=3e-3, seed=5)
ASKED = {(STOPPED.id, 2): [Request(kind="stop", trial=STOPPED.id)], (STOPPED.id, 1): [Request(kind="trial", spec=MORE)]}
"""Trial and step → what is asked when it has been taken."""
SEED = {(TrialSpec(method=FullFT(), learning_rate=1e-3).id, 3): [Request(kind="seed")]}


class Crash(Exception):
    """Stands for whatever ends a process."""


class Session(Silent):
    """One process: a fresh engine, and what is in the folder. Somebody asks for something at some steps."""

    def __init__(self, bases: ModuleType, folder: Path, asked: Any = None, checkpoint_seconds: float = 1e9) -> None:
        self.bases, self.folder, self.asked = bases, folder, asked or {}
        self.spec = STUDY.model_copy(update={"checkpoint_seconds": checkpoint_seconds})
        self.taken: list[tuple[str, int]] = []
        self.said: list[str] = []

    def run(
        self, crash_at: int = 0, until: int | None = None, only: list[TrialSpec] | None = None
    ) -> list[TrialRecord]:
        (self.folder / "trials").mkdir(parents=True, exist_ok=True)
        self.crash_at = crash_at
        scheduler = Scheduler(self.folder, self.spec, {}, self, "", until=until, only=only)
        scheduler.run(self, {}, lambda: False)  # type: ignore[arg-type]
        return scheduler.records

    def say(self, line: str) -> None:
        self.said.append(line)

    def step(self, trial: TrialSpec, steps: int, metric: Metric) -> None:
        self.taken.append((trial.id, metric.step))
        if len(self.taken) == self.crash_at:
            raise Crash
        for request in self.asked.pop((trial.id, metric.step), ()):
            ask(self.folder, request)

    def workload(self, quantisation: str = "none") -> SFTWorkload:
        engine = Engine(self.bases.small_base("qwen3"))
        return SFTWorkload(engine, self.spec, self.bases.examples(12), self.bases.examples(6, seed=1))

    def discard_engine(self) -> None: ...


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked is seen after the round in which it was."""
    monkeypatch.setattr(orders, "_LOOK_SECONDS", 0.0)


@pytest.fixture(scope="module")
def whole(bases: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], tuple[Session, dict[str, Any]]]:
    """Asked for a trial, to stop one and for a seed, in one go."""

    @cache
    def run() -> tuple[Session, dict[str, Any]]:
        session = Session(bases, tmp_path_factory.mktemp("whole"), {**ASKED, **SEED})
        session.run()
        return session, numbers(session.folder)

    return run


def test_what_is_asked_is_done_at_that_step_and_nothing_else_changes(
    bases: ModuleType, tmp_path: Path, whole: Any
) -> None:
    session, found = whole()
    stopped = found[f"trials/{STOPPED.id}/{TRIAL}"]
    assert (stopped["status"], stopped["steps"]) == ("failed", 2)
    assert stopped["error"] == "stopped by request after step 2"
    assert found[f"trials/{MORE.id}/{TRIAL}"]["status"] == "finished"
    seeds = {(value["method"], value["seed"]) for name, value in found.items() if name.endswith(TRIAL)}
    assert {("full", 1), ("lora:1", 1)} <= seeds, "one more seed of every method"
    assert [order.taken for order in read_orders(session.folder)] == [True] * 3
    assert not list((session.folder / "requests").iterdir())
    plain = Session(bases, tmp_path)
    plain.run()
    alone = numbers(tmp_path)
    full = [name for name in alone if name.startswith("trials/full")]
    assert full
    assert {name: alone[name] for name in full if "safetensors" not in name}.items() <= found.items()


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9], ids=["checkpoints", "none"])
@pytest.mark.parametrize("part", [0.25, 0.7])
def test_killed_after_it_was_asked_a_run_ends_the_same(
    bases: ModuleType, tmp_path: Path, whole: Any, part: float, checkpoint_seconds: float
) -> None:
    session, expected = whole()
    crash_at = max(4, round(part * len(session.taken)))
    asked = {**ASKED, **SEED}
    with pytest.raises(Crash):
        Session(bases, tmp_path, asked, checkpoint_seconds).run(crash_at=crash_at)
    Session(bases, tmp_path, asked).run()  # what was not asked yet is asked now
    assert numbers(tmp_path) == expected


def test_a_stopped_trial_is_not_trained_again_and_a_failed_one_is(bases: ModuleType, whole: Any) -> None:
    session, expected = whole()
    again = Session(bases, session.folder)
    again.run()
    assert again.taken == []
    assert numbers(session.folder) == expected


def test_what_makes_no_sense_is_refused_in_words(bases: ModuleType, tmp_path: Path) -> None:
    at = (STOPPED.id, 2)
    known = TrialSpec(method=LoRA(rank=1), learning_rate=1e-3)
    asked = [
        Request(kind="stop", trial="nobody"),
        Request(kind="trial", spec=known),
        Request(kind="trial", spec=TrialSpec(method=LoRA(rank=1, quantisation="nf4"), learning_rate=1e-3)),
        Request(kind="trial", spec=TrialSpec(method=LoRA(rank=2, targets=("re:nothing",)), learning_rate=1e-3)),
    ]
    session = Session(bases, tmp_path, {at: asked})
    session.run()
    found = read_orders(tmp_path)
    assert [order.taken for order in found] == [False] * 4
    assert found[0].said == "nobody is not in training"
    assert "is there already" in found[1].said
    assert "no base of this run is quantised like that" in found[2].said
    assert "matches no weight matrix of this base" in found[3].said
    plain = Session(bases, tmp_path / "plain")
    plain.run()
    assert session.taken == plain.taken


def test_an_added_pilot_pauses_as_the_others_and_goes_on_with_them(bases: ModuleType, tmp_path: Path) -> None:
    asked = {(STOPPED.id, 1): [Request(kind="trial", spec=MORE)]}
    pilots = {record.id: record for record in Session(bases, tmp_path, asked).run(until=3)}
    assert pilots[MORE.id].status == "running"
    assert read_metrics(tmp_path / "trials" / MORE.id / METRICS)[-1].step == 3
    ended = {record.id: record for record in Session(bases, tmp_path).run()}
    assert (ended[MORE.id].status, ended[MORE.id].steps) == ("finished", 4)


@pytest.mark.parametrize(
    ("chosen", "until", "taken"),
    [([STOPPED], None, [False, False]), (None, 3, [True, False])],
    ids=["until decided", "pilots"],
)
def test_nothing_is_promised_that_the_session_does_not_train(
    bases: ModuleType, tmp_path: Path, chosen: Any, until: int | None, taken: list[bool]
) -> None:
    asked = {(STOPPED.id, 1): [Request(kind="trial", spec=MORE), Request(kind="seed")]}
    session = Session(bases, tmp_path, asked)
    trained = {record.id for record in session.run(only=chosen, until=until)}
    assert [order.taken for order in read_orders(tmp_path)] == taken
    assert (MORE.id in trained) == taken[0]


def test_a_run_waits_with_a_checkpoint_until_it_may_go_on(
    bases: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Any
) -> None:
    session = Session(bases, tmp_path)
    waited: list[bool] = []

    def sleep(seconds: float) -> None:
        waited.append((tmp_path / "checkpoint.safetensors").exists())
        if len(waited) == 3:
            go_on(tmp_path)

    monkeypatch.setattr(pauses.time, "sleep", sleep)
    monkeypatch.setattr(session, "asked", {})
    real = session.step

    def step(trial: TrialSpec, steps: int, metric: Metric) -> None:
        real(trial, steps, metric)
        if len(session.taken) == 3:
            pause(tmp_path)

    monkeypatch.setattr(session, "step", step)
    session.run()
    assert waited == [True] * 3
    assert session.said.count("goes on") == 1
    plain = Session(bases, tmp_path / "plain")
    plain.run()
    assert {n: v for n, v in numbers(tmp_path).items() if not n.startswith("plain/")} == numbers(tmp_path / "plain")


def test_a_pause_ends_when_somebody_asks_to_stop(bases: ModuleType, tmp_path: Path) -> None:
    session = Session(bases, tmp_path)
    (tmp_path / "trials").mkdir()
    pause(tmp_path)
    scheduler = Scheduler(tmp_path, session.spec, {}, session, "")
    with pytest.raises(Interrupted):
        scheduler.run(session, {}, lambda: True)  # type: ignore[arg-type]
    assert session.taken == []
