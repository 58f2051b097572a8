"""Who trains when, beside whom, and until when: between the search, which knows records alone, and the loop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch

from lowregret.analysis.learning_rate import at_step, best_rate
from lowregret.analysis.numbers import nats
from lowregret.plan.price import counted
from lowregret.runs.atomic import remove_file, write_json
from lowregret.runs.files import METRICS, TRIAL
from lowregret.runs.metrics import held_out_curve, require_curve
from lowregret.runs.records import TrialRecord
from lowregret.runs.requests import Kind
from lowregret.runs.study import note_environment, read_trials, trial_folder, trial_name, trial_record
from lowregret.spec import RL, CompareSpec, GroupSpec, LoRA, TrialSpec
from lowregret.spec.method import Quantisation
from lowregret.study.lattice import group_estimate, group_trials
from lowregret.study.observer import Observer
from lowregret.study.orders import Orders
from lowregret.study.packing import has_room, require_fit
from lowregret.study.resources import TrialResources
from lowregret.study.search import next_to, next_trials, total_estimate
from lowregret.study.winners import drop_superseded, keep_if_best
from lowregret.train.checkpoint import Checkpoint, delete_checkpoint, has_paused, read_checkpoint
from lowregret.train.interrupt import Interrupted
from lowregret.train.loop import Pack, Round, rounds
from lowregret.train.members import Workload
from lowregret.train.pause import hold
from lowregret.train.trial import Deliver, begin, conclude, pause, put_aside

_CHOSEN = "it trains only what can decide it: ask it again when its command runs without --until-decided"
_CHOSEN_REFUSE: Mapping[Kind, str] = MappingProxyType({"trial": _CHOSEN, "seed": _CHOSEN})
_PILOTS_REFUSE: Mapping[Kind, str] = MappingProxyType(
    {"seed": "pilots are of one seed: ask the comparison that goes on from them"}
)
"""What a session that trains chosen trials, or pilots, would promise and not do."""


@dataclass(frozen=True)
class Pruning:
    """Why a trial is stopped early."""

    reason: str
    rival: str
    """The id of the trial that it was compared with."""


class Scheduler:
    """The trials of one compare, or of one group of a study."""

    def __init__(
        self,
        folder: Path,
        spec: CompareSpec | GroupSpec,
        priors: Mapping[str, float],
        watching: Observer,
        identity: str,
        deliver: Deliver | None = None,
        only: Sequence[TrialSpec] | None = None,
        until: int | None = None,
        given_up: Mapping[str, str] = MappingProxyType({}),
        elsewhere: Mapping[TrialSpec, Path] = MappingProxyType({}),
        take: Callable[[Path, Path], TrialRecord | None] = lambda source, target: None,
    ) -> None:
        """`identity` is that of the run (`runs.manifest`).

        `deliver` is what becomes of a finished trial; when None, the weights of the best of each method are kept.

        `only` these trials are trained, whatever the search would ask for, `until` a step if one is given. What is
        `given_up`, by id with the reason, is recorded as failed.

        `until` this step, after which all are evaluated, the search's trials are trained, and searched by: pilots,
        which stay `running`, each with a checkpoint of its own from which a later scheduler goes on.

        What is trained `elsewhere`, trial by folder, is taken from there when it is asked for: `take` is given that
        folder and the trial's own, and answers None where it is to be trained after all.
        """
        self._only, self._until, self._identity, self._given_up = only, until, identity, given_up
        self._elsewhere, self._take = dict(elsewhere), take
        self.folder, self.spec, self.priors, self.watching = folder, spec, priors, watching
        self._deliver = deliver
        self._checkpoint = read_checkpoint(folder, identity)
        refused = _PILOTS_REFUSE if until is not None else {}
        self._orders = Orders(folder, spec, watching.say, _CHOSEN_REFUSE if only is not None else refused)
        self._steps: dict[str, int] = {}
        """Trial in training → the steps that it has taken."""
        stopped = self._orders.stopped
        self.records = resumable_records(folder, self._checkpoint, watching.say, given_up, stopped)
        """As the folder has them."""
        for line in going_on(self.records) if only is None else ():
            watching.say(line)
        drop_superseded(folder, self.records)

    def wanted(self) -> list[TrialSpec]:
        """The trials that the search asks for, those in training among them, and those that somebody asked for."""
        found = self._asked_for()
        if not found and not self._steps and self._orders.see({}, self.records, everything=True):
            found = self._asked_for()
        return found

    def _asked_for(self) -> list[TrialSpec]:
        """By the search, and by the orders in force."""
        if self._only is not None:
            there = self.records if self._until is None else [self._at(record, self._until) for record in self.records]
            done = {record.spec for record in there if record.status != "running" and not record.put_aside}
            return [trial for trial in self._only if trial not in done]
        ended = {record.id for record in self.ended() if not record.put_aside}
        if self._until is not None:  # pilots that have come as far
            ended |= {record.id for record in self.records if self._until in self._curve(record)}
        found = self._searched_for()
        more = (trial for trial in self._orders.trials() if trial_name(self.folder, trial) not in ended)
        return list(dict.fromkeys([*found, *more]))

    def _searched_for(self) -> list[TrialSpec]:
        if isinstance(self.spec, CompareSpec) and self._until is not None:
            return next_trials(self._pilots, self.priors, [self._at(record, self._until) for record in self.records])
        if isinstance(self.spec, CompareSpec):
            return next_trials(self._orders.grown(self.spec), self.priors, self.records)
        return group_trials(self.spec, self.priors, self.records, self._curve)

    def ended(self) -> list[TrialRecord]:
        """The trials that need no more training, as far as is known."""
        return [record for record in self.records if record.status != "running"]

    @property
    def _pilots(self) -> CompareSpec:
        """What pilots are searched by: one seed, and none is stopped early."""
        assert isinstance(self.spec, CompareSpec)
        return self.spec.model_copy(update={"seeds": 1, "prune": None})

    def _past(self) -> list[TrialRecord]:
        """What a checkpoint keeps: the trials that have ended, and those that are paused."""
        return [r for r in self.records if r.status != "running" or has_paused(trial_folder(self.folder, r.id))]

    def _at(self, record: TrialRecord, step: int) -> TrialRecord:
        """As if the trial had been of so many steps, if it has come so far."""
        loss = self._curve(record).get(step)
        return record if loss is None else at_step(record, step, loss)

    def run(self, resources: TrialResources, session: Mapping[str, str | int], should_stop: Callable[[], bool]) -> None:
        """Train pack after pack until the search asks for nothing more.

        `session` is the environment, for the record. Raises LowregretError, or Interrupted after a clean stop.
        """
        checkpoint = self._checkpoint
        self._take_over()
        while checkpoint or self.wanted():
            hold(self.folder, should_stop, self.watching.say, lambda: None)
            if should_stop():
                raise Interrupted
            note_environment(self.folder, {**session, "threads": torch.get_num_threads()})
            if self.train(resources.workload(self._base_of(checkpoint)), checkpoint, should_stop):
                resources.discard_engine()
            checkpoint = None

    def _base_of(self, checkpoint: Checkpoint | None) -> Quantisation:
        """Of the base that the next pack needs: LoRAs come first."""
        standing = [] if checkpoint is None else [member.trial for member in checkpoint.members]
        waiting = standing or sorted(self.wanted(), key=lambda trial: not isinstance(trial.method, LoRA))
        return waiting[0].method.quantisation if waiting else "none"

    def train(self, workload: Workload, checkpoint: Checkpoint | None, should_stop: Callable[[], bool]) -> bool:
        """One pack, from its checkpoint or from nothing, for as long as trials join it; True when the base is spent.

        All LoRA trials that the search asks for come first, each pack those on one base, quantised or not. A FullFT
        trial is alone, and spends the base.
        """
        pack = Pack(workload, self.watching.step)
        pack.past = self._past()
        if checkpoint is None:  # what ends before the first checkpoint would happen again, beside the same trials
            pack.save(self.folder)
        for standing in () if checkpoint is None else checkpoint.members:
            if standing.name in self._given_up:
                continue
            self._begin(pack, standing.trial, checkpoint)
        self._fill(pack)
        for done in rounds(pack, self.folder, should_stop):
            if done.saved:  # what is younger may happen again, what is older will not
                self._drop()
            self._pause(pack, done)
            self._prune(pack, done)
            ordered = self._obey(pack, done)
            for member, outcome in done.ended:
                deliver = self._deliver or partial(keep_if_best, records=self.records, folder=self.folder)
                record = conclude(pack, member, outcome, deliver)
                self._note(record)
                self.watching.trial_ended(record)
            if ordered or done.ended or len(pack.members) < len(done.order):
                self._fill(pack)
            if pack.members:
                hold(self.folder, should_stop, self.watching.say, partial(pack.save, self.folder))
        self._drop()
        return pack.trains_base

    def put_aside(self) -> None:
        """The pilots that a comparison is complete without: they have ended, and their checkpoints go."""
        for record in (record for record in self.records if record.status == "running"):
            self._note(put_aside(trial_folder(self.folder, record.id), record))
        self._drop()

    def _drop(self) -> None:
        """Weights of trials that others have beaten, and checkpoints of pauses that are over."""
        drop_superseded(self.folder, self.records)
        for record in self.ended():
            delete_checkpoint(trial_folder(self.folder, record.id))

    def _pause(self, pack: Pack, done: Round) -> None:
        """Those that have come as far as pilots go."""
        reached = {n: found.loss for n, found in done.measured.items() if pack.members[n].progress.step == self._until}
        for name, loss in reached.items():
            record = pause(pack, done, name)
            self._note(record)
            self.watching.trial_paused(record, record.steps, loss)

    def _prune(self, pack: Pack, done: Round) -> None:
        """Stop those that a round has shown to be too far behind; all are judged before any is concluded."""
        found: dict[str, Pruning] = {}
        for name, evaluation in done.measured.items():
            member = pack.members[name]
            if 2 * member.progress.step < member.steps:
                continue  # early on, a rate that is merely slow looks bad
            pruning = self.should_prune(member.trial, member.progress.step, evaluation.loss)
            if pruning is not None:
                found[name] = pruning
        for name, pruning in found.items():
            pack.prune(done, name, pruning.reason, pruning.rival)

    def _obey(self, pack: Pack, done: Round) -> bool:
        """What is asked from outside; whether there may be another trial to train."""
        self._steps = {name: member.progress.step for name, member in pack.members.items()}
        ending = {member.name: member.progress.step for member, _ in done.ended}
        changed = self._orders.look(self._steps, self.records, partial(require_fit, pack.workload), ending)
        for name, why in self._orders.stops(self._steps).items():
            pack.stop(done, name, why)
            del self._steps[name]
        return changed

    def should_prune(self, trial: TrialSpec, step: int, loss: float) -> Pruning | None:
        """The stopping rule: a search trial against the lowest loss at the same step of the method's others.

        It is asked from the middle of a run on.

        Those are the finished ones and those in training, so that trials in lockstep are compared with each other. Of
        a loss `prune` is a share; with reinforcement learning, where it is off unless asked for, so much reward.
        """
        if self.spec.prune is None or trial.seed != 0:
            return None
        known: list[tuple[float, TrialRecord]] = []
        for record in self.records:
            if record.method != trial.method.name or record.seed != trial.seed or record.spec == trial:
                continue
            if record.status in ("finished", "running"):
                found = self._curve(record).get(step)
                known += [] if found is None else [(found, record)]
        if not known:
            return None
        lowest, rival = min(known, key=lambda found: found[0])
        if self._beside_the_best(trial, rival):
            return None  # where the bottom lies between the rates is read off what the neighbours end with
        rewards = isinstance(self.spec.objective, RL)
        limit = lowest + self.spec.prune if rewards else (1 + self.spec.prune) * lowest
        if loss <= limit:
            return None
        other = f"that of learning rate {rival.learning_rate:.3g}, by more than"
        said = (
            f"its held-out reward {nats(-loss)} fell short of {nats(-lowest)}, {other} {self.spec.prune:g}"
            if rewards
            else f"its held-out loss {nats(loss)} exceeded {nats(lowest)}, {other} {self.spec.prune:.0%}"
        )
        return Pruning(f"after step {step} {said}", rival.id)

    def _beside_the_best(self, trial: TrialSpec, rival: TrialRecord) -> bool:
        """Whether a trial's rate is a neighbour of the best at this step, or of the best so far."""
        best = best_rate([record for record in self.ended() if record.method == trial.method.name]).learning_rate
        rates = [rival.learning_rate, *([] if best is None else [best])]
        return any(next_to(self.spec, trial.learning_rate, rate) for rate in rates)

    def _fill(self, pack: Pack) -> None:
        """Whoever is to join now joins."""
        self._steps = {name: member.progress.step for name, member in pack.members.items()}
        self._orders.see(self._steps, self.records)
        self._take_over()
        while (trial := self._next(pack)) is not None:
            self._begin(pack, trial, None)
        pack.past = self._past()

    def _take_over(self) -> None:
        """What is asked for and was trained elsewhere; what is in training here, or was at its checkpoint, goes on."""
        checkpoint = () if self._checkpoint is None else self._checkpoint.members
        while True:
            known = {record.spec for record in self.records} | {member.trial for member in checkpoint}
            found = [trial for trial in self._asked_for() if trial in self._elsewhere and trial not in known]
            for trial in found:
                source = self._elsewhere.pop(trial)
                home = trial_folder(self.folder, trial_name(self.folder, trial))
                record = self._take(source, home)
                if record is not None:
                    self._note(record)
                    self.watching.say(f"{record.id}: taken over from {source.parents[1]}")
                    self.watching.trial_ended(record)
            if not found:
                return

    def _next(self, pack: Pack) -> TrialSpec | None:
        """Who joins now, if anybody does."""
        if pack.trains_base:
            return None
        training = {member.trial for member in pack.members.values()}
        waiting = [trial for trial in self.wanted() if trial not in training]
        loras = [trial for trial in waiting if isinstance(trial.method, LoRA)]
        there = pack.workload.engine.base.quantisation
        if loras:
            own = [trial for trial in loras if trial.method.quantisation == there]
            return own[0] if own and has_room(pack, own[0]) else None
        return waiting[0] if waiting and not pack.members and there == "none" else None

    def _begin(self, pack: Pack, trial: TrialSpec, checkpoint: Checkpoint | None) -> None:
        if self._only is not None:
            expected = len(self._only) + len({r.spec for r in self._past()} - set(self._only))
        elif isinstance(self.spec, CompareSpec):
            expected = total_estimate(self.spec if self._until is None else self._pilots, self.records)
        else:
            expected = group_estimate(self.spec, self.records)
        done = self.ended() if self._until is None else self._past()
        self.watching.trial_started(trial, len(done), expected)
        name = trial_name(self.folder, trial)
        home = trial_folder(self.folder, name)
        record = begin(pack, trial, home, checkpoint or read_checkpoint(home, self._identity), name=name)
        self._note(record)
        if record.status != "running":
            self.watching.trial_ended(record)

    def _note(self, record: TrialRecord) -> None:
        """Its record as it is on the disk now; the others have not changed since they were read."""
        others = [other for other in self.records if other.id != record.id]
        found = trial_record(trial_folder(self.folder, record.id))
        self.records = sorted([*others, found], key=lambda each: each.id)

    def _curve(self, record: TrialRecord) -> dict[int, float]:
        return held_out_curve(trial_folder(self.folder, record.id) / METRICS)


def resumable_records(
    folder: Path,
    checkpoint: Checkpoint | None,
    say: Callable[[str], None],
    given_up: Mapping[str, str] = MappingProxyType({}),
    stopped: Collection[str] = (),
) -> list[TrialRecord]:
    """The trials of an earlier session, as they were at the checkpoint: what came after it happens again.

    Those that failed (out of memory) are forgotten, so that they run again, but for those that are given up, and those
    that were `stopped` by an order.
    """
    then = None if checkpoint is None else {record.id: record for record in checkpoint.records}
    kept: list[TrialRecord] = []
    for found in read_trials(folder):
        record = found if then is None else then.get(found.id)
        home = trial_folder(folder, found.id)
        if found.id in given_up:
            kept.append(found.model_copy(update={"status": "failed", "error": given_up[found.id]}))
            write_json(home / TRIAL, kept[-1])
            continue
        if record is not None and record.status == "running" and has_paused(home):
            kept.append(record)
            continue
        if record is None:
            delete_checkpoint(home)
        if record is None or record.status == "running" or (record.status == "failed" and record.id not in stopped):
            if record is not None and record.status == "failed":
                say(f"{record.id} failed before ({record.error}); it runs again")
            remove_file(home / TRIAL)
            continue
        if record.status == "finished":
            require_curve(home / METRICS, record.steps)
        if record != found:
            write_json(home / TRIAL, record)
        kept.append(record)
    return kept


def going_on(records: Sequence[TrialRecord]) -> list[str]:
    """What is said when a session finds trials of an earlier one."""
    paused = sum(record.status == "running" for record in records)
    ended = len(records) - paused
    found = [f"{counted(ended)} that {'has' if ended == 1 else 'have'} ended"] if ended else []
    found += [f"{counted(paused)} a part of the way"] if paused else []
    return [f"going on after {' and '.join(found)}"] if found else []
