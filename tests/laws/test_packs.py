"""Trials that train together: the same numbers as alone, whoever else comes, goes, breaks or is killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.repeated import numbers
from torch import Tensor

from lowregret.data.example import Example
from lowregret.engine import Engine
from lowregret.runs.files import METRICS
from lowregret.runs.metrics import read_metrics
from lowregret.runs.records import Metric, TrialRecord
from lowregret.spec import AdamW, CompareSpec, DataSpec, FullFT, LoRA, TrainingSpec, TrialSpec
from lowregret.study import scheduler as study_scheduler
from lowregret.study.observer import Silent
from lowregret.study.scheduler import Scheduler
from lowregret.train.checkpoint import read_checkpoint
from lowregret.train.interrupt import Interrupted
from lowregret.train.loop import OnStep, Pack, rounds
from lowregret.train.sft.work import SFTWorkload
from lowregret.train.trial import begin, conclude

STEPS = 6
TRIALS = [
    TrialSpec(method=LoRA(rank=1, targets=("attention",)), learning_rate=1e-2, seed=0),
    TrialSpec(method=LoRA(rank=4, alpha=8, targets=("mlp", "unembedding"), dropout=0.2), learning_rate=5e-3, seed=1),
    TrialSpec(method=LoRA(rank=7), learning_rate=2e-3, seed=2),
]


def training(**changed: Any) -> TrainingSpec:
    """A schedule, decay and clipping, so that the optimizer has something to remember; three evaluations."""
    fields: dict[str, Any] = {
        "model": "small",
        "data": DataSpec(train="small"),
        "batch_size": 4,
        "steps": STEPS,
        "optimizer": AdamW(schedule="cosine", warmup_steps=2, weight_decay=0.1, clip_norm=0.5),
        "evals": 3,
        "checkpoint_seconds": 1e9,
    }
    return TrainingSpec(**(fields | changed))


def train(
    engine: Engine,
    examples: tuple[list[Example], list[Example]],
    folder: Path,
    trials: Sequence[TrialSpec],
    on_step: OnStep = lambda trial, steps, metric: None,
    prune: tuple[TrialSpec, int] | None = None,
) -> tuple[dict[str, TrialRecord], dict[str, dict[str, Tensor]]]:
    """All of these from the start, side by side: their records, and their weights when they ended.

    `prune`: (the trial that is stopped early, after which step).
    """
    pack = Pack(SFTWorkload(engine, training(), *examples), on_step)
    records: dict[str, TrialRecord] = {}
    weights: dict[str, dict[str, Tensor]] = {}
    for trial in trials:
        begin(pack, trial, folder / trial.id)
    for done in rounds(pack, folder):
        if prune is not None and prune[0].id in done.measured and pack.members[prune[0].id].progress.step == prune[1]:
            pack.prune(done, prune[0].id, "", "rival")
        for member, outcome in done.ended:
            policy = engine.policies[member.name]
            weights[member.name] = {name: weight.detach().clone() for name, weight in policy.weights.items()}
            records[member.name] = conclude(pack, member, outcome, lambda *_: None)
    assert not engine.policies
    return records, weights


@pytest.fixture
def float64() -> Iterator[None]:
    """Adam divides by the size of a gradient, so in float32 it would turn the rounding of near-zero ones into steps."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def examples(bases: ModuleType) -> tuple[list[Example], list[Example]]:
    return bases.examples(18), bases.examples(9, seed=1)


@pytest.mark.usefixtures("float64")
def test_together_equals_alone(bases: ModuleType, tmp_path: Path, examples: Any) -> None:
    records, weights = train(Engine(bases.double_base("qwen3")), examples, tmp_path / "pack", TRIALS)
    for trial in TRIALS:
        folder = tmp_path / "alone"
        alone, own = train(Engine(bases.double_base("qwen3")), examples, folder, [trial])
        for name, weight in own[trial.id].items():
            assert bases.distance(weights[trial.id][name], weight) < 1e-9
        assert records[trial.id].test_nll == pytest.approx(alone[trial.id].test_nll, rel=1e-9)
        for ours, theirs in zip(
            read_metrics(tmp_path / "pack" / trial.id / METRICS), read_metrics(folder / trial.id / METRICS), strict=True
        ):
            assert (ours.step, ours.tokens, ours.lr) == (theirs.step, theirs.tokens, theirs.lr)
            assert ours.train_nll == pytest.approx(theirs.train_nll, rel=1e-9)
            assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-7)


def test_how_one_ends_changes_no_bit_of_another(bases: ModuleType, tmp_path: Path, examples: Any) -> None:
    """The second ends with step 4: because it is pruned, or because its weights are NaN since step 3."""
    doomed = TRIALS[1]
    engine = Engine(bases.small_base("qwen3"))

    def poison(trial: TrialSpec, steps: int, metric: Metric) -> None:
        if trial == doomed and metric.step == 3:
            for weight in engine.policies[trial.id].weights.values():
                weight.data.fill_(float("nan"))

    diverged, beside_nan = train(engine, examples, tmp_path / "diverged", TRIALS, poison)
    other = Engine(bases.small_base("qwen3"))
    pruned, healthy = train(other, examples, tmp_path / "pruned", TRIALS, prune=(doomed, 4))
    assert (pruned[doomed.id].status, pruned[doomed.id].steps) == ("pruned", 4)
    assert (diverged[doomed.id].status, diverged[doomed.id].steps) == ("diverged", 3)
    assert diverged[doomed.id].error is not None
    assert "is nan nats per token in step 4" in diverged[doomed.id].error
    for trial in (TRIALS[0], TRIALS[2]):
        assert pruned[trial.id].status == diverged[trial.id].status == "finished"
        assert bases.same(healthy[trial.id], beside_nan[trial.id])
        assert pruned[trial.id].test_nll == diverged[trial.id].test_nll


def test_time_is_shared_out_and_the_step_alone_tells_what_sharing_saves(
    bases: ModuleType, tmp_path: Path, examples: Any
) -> None:
    records, _ = train(Engine(bases.small_base("qwen3")), examples, tmp_path / "pack", TRIALS)
    alone, _ = train(Engine(bases.small_base("qwen3")), examples, tmp_path / "alone", TRIALS[:1])
    for record in records.values():
        assert record.pack_size == 3
        assert 0 < record.shared_seconds < record.seconds
        assert record.shared_seconds_alone > 0
    one = alone[TRIALS[0].id]
    assert (one.pack_size, one.shared_seconds, one.shared_seconds_alone) == (1, 0, 0)


# --- a study, killed -------------------------------------------------------------------------------------------------

STUDY = CompareSpec(
    model="small",
    data=DataSpec(train="small"),
    methods=(LoRA(rank=1), LoRA(rank=5, targets=("mlp",), dropout=0.1), FullFT()),
    learning_rates=(1e-3, 3e-2, 1e-2),
    seeds=2,
    batch_size=4,
    steps=4,
    evals=2,
    prune=0.02,
)


class Crash(Exception):
    """Stands for whatever ends a process."""


class Session(Silent):
    """One process of a study: a fresh engine, and what is in the folder. Crashes or stops at a step of any trial."""

    def __init__(self, bases: ModuleType, folder: Path, checkpoint_seconds: float = 1e9, **changed: Any) -> None:
        self.bases, self.folder = bases, folder
        self.spec = STUDY.model_copy(update={"checkpoint_seconds": checkpoint_seconds, **changed})
        self.taken: list[tuple[str, int]] = []
        self.passes: list[tuple[str, ...]] = []

    def run(self, crash_at: int = 0, stop_at: int = 0, until: int | None = None) -> list[TrialRecord]:
        (self.folder / "trials").mkdir(parents=True, exist_ok=True)
        self.crash_at = crash_at
        scheduler = Scheduler(self.folder, self.spec, {}, self, "", until=until)
        scheduler.run(self, {}, lambda: 0 < stop_at <= len(self.taken))  # type: ignore[arg-type]
        return scheduler.records

    def step(self, trial: TrialSpec, steps: int, metric: Metric) -> None:
        """As the observer."""
        self.taken.append((trial.id, metric.step))
        if len(self.taken) == self.crash_at:
            raise Crash

    def workload(self, quantisation: str = "none") -> SFTWorkload:
        """As the resources: a fresh base for each pack."""
        engine = Engine(self.bases.small_base("qwen3"))
        whole = engine.forward_backward

        def noted(batches: Any) -> Any:
            self.passes.append(tuple(batches))
            return whole(batches)

        engine.forward_backward = noted  # type: ignore[method-assign]
        return SFTWorkload(engine, self.spec, self.bases.examples(18), self.bases.examples(9, seed=1))

    def discard_engine(self) -> None: ...


@pytest.fixture
def room_for_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six LoRA trials in a pack of three: others take the places of those that end."""
    monkeypatch.setattr(study_scheduler, "has_room", lambda pack, trial: len(pack.members) < 3)


@pytest.fixture(scope="module")
def whole(bases: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], tuple[Session, dict[str, Any]]]:
    """The study in one go; called under `room_for_three`."""

    @cache
    def run() -> tuple[Session, dict[str, Any]]:
        session = Session(bases, tmp_path_factory.mktemp("whole"))
        session.run()
        return session, numbers(session.folder)

    return run


@pytest.mark.usefixtures("room_for_three")
def test_the_study_is_one_in_which_everything_happens(whole: Any) -> None:
    session, found = whole()
    records = [value for name, value in found.items() if name.endswith("trial.json")]
    statuses = [record["status"] for record in records]
    assert {"finished", "pruned"} <= set(statuses)
    assert max(record["pack_size"] for record in records if record["method"] != "full") == 3
    assert all(record["pack_size"] == 1 for record in records if record["method"] == "full")
    first_full = next(index for index, names in enumerate(session.passes) if "full" in names[0])
    assert all(len(names) == 1 for names in session.passes[first_full:])
    assert not any("full" in name for names in session.passes[:first_full] for name in names)
    assert len({names for names in session.passes if len(names) == 3}) > 1, "nobody took the place of another"
    assert not (session.folder / "checkpoint.safetensors").exists()


@pytest.mark.usefixtures("room_for_three")
@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9], ids=["checkpoints", "none"])
@pytest.mark.parametrize("part", [0.05, 0.2, 0.3, 0.45, 0.6, 0.8, 0.99])
def test_killed_at_any_step_a_pack_goes_on_as_if_nothing_had_happened(
    bases: ModuleType, tmp_path: Path, whole: Any, part: float, checkpoint_seconds: float
) -> None:
    session, expected = whole()
    crash_at = max(1, round(part * len(session.taken)))
    with pytest.raises(Crash):
        Session(bases, tmp_path, checkpoint_seconds).run(crash_at=crash_at)
    resumed = Session(bases, tmp_path)
    resumed.run()
    assert numbers(tmp_path) == expected
    if checkpoint_seconds == 0:  # the round in which it died is repeated, and nothing before
        assert len(resumed.taken) <= len(session.taken) - crash_at + 3


@pytest.mark.usefixtures("room_for_three")
def test_a_stop_repeats_no_step(bases: ModuleType, tmp_path: Path, whole: Any) -> None:
    session, expected = whole()
    taken: list[tuple[str, int]] = []
    for _ in range(4):
        part = Session(bases, tmp_path)
        with pytest.raises(Interrupted):
            part.run(stop_at=7)
        taken += part.taken
    last = Session(bases, tmp_path)
    last.run()
    assert sorted(taken + last.taken) == sorted(session.taken)
    assert numbers(tmp_path) == expected


@pytest.mark.usefixtures("room_for_three")
def test_what_is_younger_than_the_checkpoint_does_not_count(bases: ModuleType, tmp_path: Path, whole: Any) -> None:
    """Trials that ended since are in training again, and those that began since are not there."""
    session, expected = whole()
    records = [value for name, value in expected.items() if name.endswith("trial.json")]
    pruned = next(record for record in records if record["status"] == "pruned")
    crash_at = session.taken.index((pruned["id"], pruned["steps"])) + 4
    with pytest.raises(Crash):
        Session(bases, tmp_path).run(crash_at=crash_at)
    assert json.loads((tmp_path / "trials" / pruned["id"] / "trial.json").read_text())["status"] == "pruned"
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint is not None
    scheduler = Scheduler(tmp_path, STUDY, {}, Silent(), "")
    assert scheduler.records == list(checkpoint.records) == []
    assert not list(tmp_path.glob("trials/*/trial.json"))


# --- pilots ----------------------------------------------------------------------------------------------------------

PILOT = 3
"""Steps, of four: the first evaluation is after them. In the second half of a run it would prune; it does not here."""


def with_pilots(session: Session, crash_at: int = 0) -> dict[str, Any]:
    """The study after its pilots."""
    session.run(until=PILOT, crash_at=crash_at)
    session.run(crash_at=crash_at)
    return numbers(session.folder)


@pytest.fixture(scope="module")
def piloted(bases: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], tuple[Session, Any]]:
    """The study with its pilots in one go; called under `room_for_three`."""

    @cache
    def run() -> tuple[Session, Any]:
        session = Session(bases, tmp_path_factory.mktemp("piloted"), prune=None)
        return session, with_pilots(session)

    return run


@pytest.mark.usefixtures("room_for_three")
def test_pilots_are_the_first_steps_of_the_search_s_trials(bases: ModuleType, tmp_path: Path, piloted: Any) -> None:
    session = Session(bases, tmp_path / "pilots", prune=None)
    pilots = session.run(until=PILOT)
    assert {(record.status, record.seed) for record in pilots} == {("running", 0)}
    assert len(pilots) == len(STUDY.methods) * len(STUDY.learning_rates)  # type: ignore[arg-type]
    assert sorted(session.taken) == sorted((record.id, step) for record in pilots for step in range(1, PILOT + 1))
    assert session.run(until=PILOT) == pilots
    assert len(session.taken) == PILOT * len(pilots), "pilots were trained twice"
    resumed, found = piloted()
    assert sorted(resumed.taken) == sorted(set(resumed.taken)), "a step was repeated"
    assert not list(resumed.folder.rglob("checkpoint.safetensors"))
    alone = Session(bases, tmp_path / "alone", prune=None)
    alone.run()
    expected = numbers(alone.folder)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name.endswith("trial.json"):
            assert found[name]["status"] == value["status"], name
            assert found[name]["test_nll"] == pytest.approx(value["test_nll"], rel=1e-5), name
        elif "/full_" in name:
            assert found[name] == value, name


@pytest.mark.usefixtures("room_for_three")
@pytest.mark.parametrize("part", [0.1, 0.35, 0.6, 0.9])
def test_killed_in_a_pilot_or_after_it_the_study_ends_the_same(
    bases: ModuleType, tmp_path: Path, piloted: Any, part: float
) -> None:
    session, expected = piloted()
    crash_at = round(part * len(session.taken))
    with pytest.raises(Crash):
        with_pilots(Session(bases, tmp_path, checkpoint_seconds=0.0, prune=None), crash_at=crash_at)
    resumed = Session(bases, tmp_path, prune=None)
    assert with_pilots(resumed) == expected
    assert len(resumed.taken) <= len(session.taken) - crash_at + 3, "more than the round in which it died is repeated"
