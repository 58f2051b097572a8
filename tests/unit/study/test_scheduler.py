"""Who trains when: the scheduler between a search and packs that are not there."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowregret.runs.atomic import write_json
from lowregret.runs.metrics import append_metric
from lowregret.runs.records import Metric, TrialRecord
from lowregret.spec import CompareSpec, DataSpec, FullFT, LoRA, TrialSpec
from lowregret.study import scheduler as module
from lowregret.study.observer import Silent
from lowregret.study.scheduler import Scheduler, going_on, resumable_records
from lowregret.train.loop import Round

METHODS = (FullFT(), LoRA(rank=1), LoRA(rank=16))
RATES = (1e-4, 1e-3)


def study(**changed: Any) -> CompareSpec:
    fields: dict[str, Any] = {"model": "tiny", "data": DataSpec(train="builtin:arithmetic"), "methods": METHODS}
    return CompareSpec(**(fields | {"learning_rates": RATES, "seeds": 3} | changed))


def record(trial: TrialSpec, status: Any, **changed: Any) -> TrialRecord:
    rate, seed = trial.learning_rate, trial.seed
    return TrialRecord(
        id=trial.id, method=trial.method.name, learning_rate=rate, seed=seed, status=status, spec=trial, **changed
    )


def on_base(quantisation: str) -> Any:
    """A workload whose engine holds the base so."""
    return SimpleNamespace(engine=SimpleNamespace(base=SimpleNamespace(quantisation=quantisation)))


class Packs:
    """Stands for training: trials join, and end in the order that is drawn; keeps who was beside whom."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, draw: random.Random, room: int) -> None:
        self.folder, self.draw = folder, draw
        self.beside: list[list[TrialSpec]] = []
        self.packs = 0
        monkeypatch.setattr(module, "Pack", self.pack)
        monkeypatch.setattr(module, "has_room", lambda pack, trial: len(pack.members) < room)
        monkeypatch.setattr(module, "begin", self.begin)
        monkeypatch.setattr(module, "conclude", self.conclude)
        monkeypatch.setattr(module, "rounds", self.rounds)

    def pack(self, workload: Any, on_step: Any) -> Any:
        self.packs += 1
        pack = SimpleNamespace(members={}, trains_base=False, past=(), save=lambda folder: None)
        pack.workload = workload or on_base("none")
        return pack

    def begin(self, pack: Any, trial: TrialSpec, folder: Path, checkpoint: Any, *, name: str) -> TrialRecord:
        assert name == folder.name == trial.id
        pack.members[name] = SimpleNamespace(name=name, trial=trial, progress=SimpleNamespace(step=0))
        pack.trains_base = pack.trains_base or isinstance(trial.method, FullFT)
        return self._write(record(trial, "running"))

    def conclude(self, pack: Any, member: Any, outcome: Any, deliver: Any) -> TrialRecord:
        return self._write(record(member.trial, "finished", test_nll=abs(member.trial.learning_rate - 1e-3) + 1))

    def rounds(self, pack: Any, folder: Path, should_stop: Any) -> Iterator[Any]:
        while pack.members:
            self.beside.append([member.trial for member in pack.members.values()])
            ended = self.draw.sample(list(pack.members), self.draw.randint(1, len(pack.members)))
            yield Round(tuple(pack.members), {}, [(pack.members.pop(name), None) for name in ended])  # type: ignore[misc]

    def _write(self, found: TrialRecord) -> TrialRecord:
        (self.folder / "trials" / found.id).mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "trials" / found.id / "trial.json", found)
        return found


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.randoms(use_true_random=False), room=st.integers(1, 5))
def test_loras_first_and_full_alone_and_every_trial_once(
    tmp_path_factory: pytest.TempPathFactory, draw: random.Random, room: int
) -> None:
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as monkeypatch:
        packs = Packs(monkeypatch, folder, draw, room)
        scheduler = Scheduler(folder, study(), {}, Silent(), "")
        spent = []
        while scheduler.wanted():
            spent.append(scheduler.train(None, None, lambda: False))  # type: ignore[arg-type]
    kinds = [{isinstance(trial.method, FullFT) for trial in trials} for trials in packs.beside]
    assert all(len(kind) == 1 for kind in kinds)
    assert kinds == sorted(kinds, key=lambda kind: True in kind), "no FullFT trial before a LoRA trial"
    assert all(len(trials) == 1 for trials in packs.beside if isinstance(trials[0].method, FullFT))
    assert max(len(trials) for trials in packs.beside) <= room
    assert spent == [True] * 4, "every FullFT trial needs a base that none has trained: the first has the LoRA trials'"
    # Two rates with seed 0, then seeds 1 and 2 at the better one: the same for every method and order.
    expected = {(name, 1e-4, 0) for name in ("full", "lora:1", "lora:16")}
    expected |= {(name, 1e-3, seed) for name in ("full", "lora:1", "lora:16") for seed in (0, 1, 2)}
    assert {(r.method, r.learning_rate, r.seed) for r in scheduler.records} == expected


def test_a_place_is_taken_again_as_soon_as_it_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packs = Packs(monkeypatch, tmp_path, random.Random(0), room=2)
    scheduler = Scheduler(tmp_path, study(), {}, Silent(), "")
    scheduler.train(None, None, lambda: False)  # type: ignore[arg-type]
    assert packs.packs == 1
    loras = [{trial.id for trial in trials} for trials in packs.beside if isinstance(trials[0].method, LoRA)]
    for before, after in pairwise(loras):
        assert len(after) == 2 or after < before, "a place stayed free"
    assert [len(trials) for trials in loras[:3]] == [2, 2, 2]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    draw=st.randoms(use_true_random=False), methods=st.permutations(("lora:16", "lora:16:nf4", "lora:1:nf4", "full"))
)
def test_a_pack_is_of_one_base(
    tmp_path_factory: pytest.TempPathFactory, draw: random.Random, methods: list[str]
) -> None:
    """LoRAs over a quantised base share no pass with others, and FullFT gets the base as it is, after all of them."""
    folder = tmp_path_factory.mktemp("study")
    asked, bases = study(methods=tuple(methods)), []

    class Resources:
        def workload(self, quantisation: str) -> Any:
            bases.append(quantisation)
            return on_base(quantisation)

        def discard_engine(self) -> None: ...

    with pytest.MonkeyPatch.context() as monkeypatch:
        packs = Packs(monkeypatch, folder, draw, room=4)
        scheduler = Scheduler(folder, asked, {}, Silent(), "")
        scheduler.run(Resources(), {}, lambda: False)  # type: ignore[arg-type]
    assert all(len({trial.method.quantisation for trial in trials}) == 1 for trials in packs.beside)
    kinds = [isinstance(trials[0].method, FullFT) for trials in packs.beside]
    assert kinds == sorted(kinds)
    assert set(bases) == {"none", "nf4"}
    assert len(bases) <= 6, "two bases for LoRAs, one for each FullFT trial"
    assert {record.method for record in scheduler.ended()} == set(methods)
    assert max(len(trials) for trials in packs.beside) > 1


# --- the stopping rule -----------------------------------------------------------------------------------------------

SEARCH = [TrialSpec(method=LoRA(rank=1), learning_rate=rate, seed=0) for rate in (1e-4, 1e-3, 1e-2, 1e-1)]


def scheduler_with(folder: Path, *others: tuple[TrialSpec, str, float | None], prune: float | None = 0.25) -> Scheduler:
    """(trial, status, its loss at step 3)."""
    scheduler = Scheduler(folder, study(prune=prune, learning_rates=(1e-4, 1e-3, 1e-2, 1e-1)), {}, Silent(), "")
    for trial, status, nll in others:
        home = folder / "trials" / trial.id
        home.mkdir(parents=True)
        for step in (1, 2, 3):
            test_nll = nll if step == 3 else None
            append_metric(home / "metrics.jsonl", Metric(step=step, tokens=step, test_nll=test_nll, seconds=step))
        scheduler.records = [*scheduler.records, record(trial, status)]
    return scheduler


def test_of_rewards_the_stopping_rule_is_so_much_reward_and_off_unless_asked_for(tmp_path: Path) -> None:
    rewards = {"objective": {"kind": "rl", "task": "builtin:arithmetic"}}
    assert study(**rewards).prune is None
    scheduler = Scheduler(tmp_path, study(prune=0.3, learning_rates=(1e-4, 1e-3, 1e-2), **rewards), {}, Silent(), "")
    home = tmp_path / "trials" / SEARCH[2].id
    home.mkdir(parents=True)
    append_metric(home / "metrics.jsonl", Metric(step=3, tokens=3, test_reward=0.9, seconds=3))
    scheduler.records = [record(SEARCH[2], "running")]
    found = scheduler.should_prune(SEARCH[0], 3, -0.59)
    assert found is not None
    assert "its held-out reward 0.5900 fell short of 0.9000" in found.reason
    assert scheduler.should_prune(SEARCH[0], 3, -0.61) is None


@pytest.mark.parametrize(
    ("status", "counts"),
    [("finished", True), ("running", True), ("pruned", False), ("diverged", False), ("failed", False)],
)
def test_a_rival_has_finished_or_is_in_training(tmp_path: Path, status: str, counts: bool) -> None:
    scheduler = scheduler_with(tmp_path, (SEARCH[2], status, 1.0))
    found = scheduler.should_prune(SEARCH[0], 3, 1.26)
    assert (found is not None) == counts
    if found is not None:
        assert found.rival == SEARCH[2].id
        assert found.reason.startswith(
            "after step 3 its held-out loss 1.2600 exceeded 1.0000, that of learning rate 0.01"
        )


def test_the_lowest_of_several_counts_and_it_takes_more_than_the_margin(tmp_path: Path) -> None:
    scheduler = scheduler_with(
        tmp_path, (SEARCH[3], "finished", 2.0), (SEARCH[2], "running", 1.0), (SEARCH[1], "running", None)
    )
    assert scheduler.should_prune(SEARCH[0], 3, 1.25) is None
    found = scheduler.should_prune(SEARCH[0], 3, 1.2501)
    assert found is not None
    assert found.rival == SEARCH[2].id
    assert scheduler.should_prune(SEARCH[0], 2, 9.0) is None, "nobody was measured at step 2"
    assert scheduler.should_prune(SEARCH[2], 3, 1.0) is None, "a trial is no rival of itself"


def test_the_neighbour_of_the_best_is_never_pruned(tmp_path: Path) -> None:
    """Of the best at that step, and of the best that has ended."""
    scheduler = scheduler_with(tmp_path, (SEARCH[3], "running", 0.5), (SEARCH[1], "finished", 1.0))
    scheduler.records = [
        r.model_copy(update={"test_nll": 1.0}) if r.status == "finished" else r for r in scheduler.records
    ]
    assert scheduler.should_prune(SEARCH[0], 3, 9.0) is None, "beside the best that has ended"
    scheduler.records = [r for r in scheduler.records if r.status == "running"]
    assert scheduler.should_prune(SEARCH[2], 3, 9.0) is None, "beside the best at this step"
    assert scheduler.should_prune(SEARCH[1], 3, 9.0) is not None


def test_other_seeds_methods_and_off_are_never_pruned(tmp_path: Path) -> None:
    scheduler = scheduler_with(tmp_path / "on", (SEARCH[1], "finished", 1.0))
    assert scheduler.should_prune(SEARCH[0].model_copy(update={"seed": 1}), 3, 9.0) is None
    assert scheduler.should_prune(SEARCH[0].model_copy(update={"method": LoRA(rank=2)}), 3, 9.0) is None
    off = scheduler_with(tmp_path / "off", (SEARCH[1], "finished", 1.0), prune=None)
    assert off.should_prune(SEARCH[0], 3, 9.0) is None


# --- going on --------------------------------------------------------------------------------------------------------


def on_disk(folder: Path, *records: TrialRecord) -> None:
    for found in records:
        (folder / "trials" / found.id).mkdir(parents=True, exist_ok=True)
        write_json(folder / "trials" / found.id / "trial.json", found)


def test_without_a_checkpoint_what_has_ended_has_ended(tmp_path: Path) -> None:
    on_disk(tmp_path, record(SEARCH[0], "finished"), record(SEARCH[1], "running"), record(SEARCH[2], "failed"))
    said: list[str] = []
    assert [r.id for r in resumable_records(tmp_path, None, said.append)] == [SEARCH[0].id]
    assert [path.parent.name for path in tmp_path.glob("trials/*/trial.json")] == [SEARCH[0].id]
    assert any("failed before" in line for line in said)
    assert going_on([record(SEARCH[0], "finished")]) == ["going on after 1 trial that has ended"]
    assert going_on([]) == []


def test_pilots_that_wait_have_not_ended() -> None:
    waiting = [record(SEARCH[0], "running"), record(SEARCH[1], "running")]
    assert going_on(waiting) == ["going on after 2 trials a part of the way"]
    (said,) = going_on([*waiting, record(SEARCH[2], "finished"), record(SEARCH[3], "pruned")])
    assert said == "going on after 2 trials that have ended and 2 trials a part of the way"


def test_a_pilot_that_a_whole_comparison_did_not_ask_for_has_ended_and_its_checkpoint_goes(tmp_path: Path) -> None:
    """It takes no part in the search, and whoever asks for it later has it trained again."""
    methods = {"methods": (FullFT(), LoRA(rank=1)), "seeds": 1}
    asked = TrialSpec(method=FullFT(), learning_rate=1e-4, seed=0)
    others = [asked.model_copy(update={"learning_rate": rate}) for rate in (1e-3, 1e-2)]
    on_disk(tmp_path, record(asked, "running", trainable_parameters=7), *(record(o, "finished") for o in others))
    home = tmp_path / "trials" / asked.id
    for step, loss in ((1, None), (2, 3.5), (3, None)):
        append_metric(home / "metrics.jsonl", Metric(step=step, tokens=10 * step, seconds=1.0, test_nll=loss))
    (home / "checkpoint.safetensors").write_bytes(b"weights")
    spec = study(**methods, learning_rates=(1e-3, 1e-2))
    Scheduler(tmp_path, spec, {}, Silent(), "").put_aside()
    assert not (home / "checkpoint.safetensors").exists()
    found = module.trial_record(home)
    assert (found.status, found.steps, found.tokens, found.test_nll) == ("pruned", 3, 30, 3.5)
    assert found.put_aside
    assert "the comparison was complete without it, after its step 3" in (found.error or "")
    best = module.best_rate([r for r in module.read_trials(tmp_path) if r.method == "full"])
    assert not best.bracketed, "a pilot is no worse rate: nobody trained it to its end"
    # Asked for by a list of rates that has grown, by pilots of more steps, and by a contest; not by pilots as long.
    grown = study(**methods)
    assert asked in Scheduler(tmp_path, grown, {}, Silent(), "").wanted()
    assert asked in Scheduler(tmp_path, grown, {}, Silent(), "", until=4).wanted()
    assert asked not in Scheduler(tmp_path, grown, {}, Silent(), "", until=2).wanted()
    assert Scheduler(tmp_path, grown, {}, Silent(), "", only=[asked]).wanted() == [asked]


def test_with_a_checkpoint_all_is_as_it_was_then(tmp_path: Path) -> None:
    """Ended then; ended since; begun since; pruned then and in training again since; deleted by hand since."""
    then = (record(SEARCH[0], "finished"), record(SEARCH[2], "pruned", pruned_by="x"), record(SEARCH[3], "finished"))
    on_disk(tmp_path, then[0], record(SEARCH[1], "finished"), record(SEARCH[2], "running"))
    checkpoint: Any = SimpleNamespace(records=then)
    kept = resumable_records(tmp_path, checkpoint, lambda line: None)
    assert {r.id: r.status for r in kept} == {SEARCH[0].id: "finished", SEARCH[2].id: "pruned"}
    assert sorted(module.read_trials(tmp_path), key=lambda r: r.id) == sorted(kept, key=lambda r: r.id)


def test_nothing_is_stopped_in_the_first_half(tmp_path: Path) -> None:
    """Early on, a rate that is merely slow looks bad."""
    for steps, stopped in ((6, True), (7, False)):
        scheduler = scheduler_with(tmp_path / str(steps), (SEARCH[2], "finished", 1.0))
        cut: list[str] = []
        member = SimpleNamespace(trial=SEARCH[0], steps=steps, progress=SimpleNamespace(step=3))
        pack: Any = SimpleNamespace(members={"x": member}, prune=lambda *told, cut=cut: cut.append(told[-1]))
        scheduler._prune(pack, Round(("x",), {"x": SimpleNamespace(loss=9.0)}, []))  # type: ignore[dict-item]
        assert cut == ([SEARCH[2].id] if stopped else [])


def test_what_is_given_up_is_recorded_as_failed_and_not_asked_for_until_the_next_start(tmp_path: Path) -> None:
    home = tmp_path / "trials" / SEARCH[0].id
    home.mkdir(parents=True)
    write_json(home / "trial.json", record(SEARCH[0], "running"))
    why = {SEARCH[0].id: "3 workers were lost at it"}
    scheduler = Scheduler(tmp_path, study(), {}, Silent(), "", given_up=why)
    (kept,) = scheduler.ended()
    assert (kept.status, kept.error) == ("failed", "3 workers were lost at it")
    assert SEARCH[0] not in scheduler.wanted()
    assert json.loads((home / "trial.json").read_text())["status"] == "failed"
    assert SEARCH[0] in Scheduler(tmp_path, study(), {}, Silent(), "").wanted()


def test_of_a_checkpoint_what_is_given_up_does_not_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packs = Packs(monkeypatch, tmp_path, random.Random(0), room=5)
    standing = [SimpleNamespace(name=trial.id, trial=trial) for trial in SEARCH[:2]]
    checkpoint = SimpleNamespace(members=standing, records=())
    monkeypatch.setattr(module, "read_checkpoint", lambda folder, identity: checkpoint)
    for trial in SEARCH[:2]:
        (tmp_path / "trials" / trial.id).mkdir(parents=True)
        write_json(tmp_path / "trials" / trial.id / "trial.json", record(trial, "running"))
    scheduler = Scheduler(tmp_path, study(), {}, Silent(), "", given_up={SEARCH[0].id: "lost"})
    scheduler.train(None, checkpoint, lambda: False)  # type: ignore[arg-type]
    trained = {trial for beside in packs.beside for trial in beside}
    assert SEARCH[1] in trained
    assert SEARCH[0] not in trained
