"""The one training loop: a pack of trials in lockstep over one copy of the base. A trial alone is a pack of one.

Every round is one optimizer step of each member, with its own data, rate, schedule and step count. Members come and go:
what one does changes no number of another but by the rounding of products of another size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowregret.records import Metric, TrialRecord, append_metric, sync_file, write_json
from lowregret.spec import FullFT, TrialSpec
from lowregret.train.checkpoint import Progress, delete_checkpoint, save_checkpoint
from lowregret.train.liveness import EXPERTS
from lowregret.train.memory import PeakMemory
from lowregret.train.step import EXAMPLES, METRICS, Ending, Evaluation, Job, Member, Taken

_ALONE = 1
"""Steps done before the one that every trial takes in passes of its own. In the first, much happens for the first
time; the second tells what a step alone costs."""


class Interrupted(InterruptedError):
    """The user asked to stop; a checkpoint has been written."""


@dataclass(frozen=True)
class Pruning:
    """Why a trial is stopped early."""

    reason: str
    rival: str
    """The id of the trial that it was compared with."""


@dataclass(frozen=True)
class Hooks:
    """What the caller of a pack may watch and decide."""

    on_step: Callable[[TrialSpec, int, Metric], None] = lambda trial, steps, metric: None
    """(a trial, its total steps, the metric of the step that it has taken)."""
    should_prune: Callable[[TrialSpec, int, float], Pruning | None] = lambda trial, step, nll: None
    """(a trial, step, `Evaluation.loss`) at a mid-run evaluation, once the curves of all members have it."""
    should_stop: Callable[[], bool] = lambda: False
    """Asked after every round; True writes a checkpoint and raises Interrupted."""


class Pack:
    """Trials in training on one engine."""

    def __init__(self, task: Job, hooks: Hooks) -> None:
        self.task = task
        self.hooks = hooks
        self.members: dict[str, Member] = {}
        """By policy, in the order in which they joined: the order of their rows in a pass."""
        self.spent = False
        """A FullFT trial has joined: the base is its own, and nobody else may."""
        self._work = task.work()
        self._memory: PeakMemory | None = None

    def join(self, name: str, trial: TrialSpec, folder: Path, progress: Progress | None = None) -> None:
        """A trial whose policy is on the engine; `progress` when it has been trained before."""
        self.members[name] = self._work.enter(name, trial, folder, progress or Progress())
        self.spent = self.spent or isinstance(trial.method, FullFT)
        self._memory = None

    def round(self) -> list[tuple[Member, Ending]]:
        """One step of every member; those that ended with it are members no more, their policies still on the engine.

        Writes a line of each one's metrics.jsonl, and examples.json of those that finished. Raises LivenessError, or
        RecordsError when the disk refuses.
        """
        began = time.perf_counter()
        self._memory = self._memory or PeakMemory(self.task.engine.device)
        members = list(self.members.values())
        spent = dict.fromkeys(self.members, 0.0)
        endings: dict[str, Ending] = {}
        self._begin(members, spent)
        taken: dict[str, Taken] = {}
        for group in _groups(members):
            found, seconds = self._work(group)
            steps = {name: what for name, what in found.items() if isinstance(what, Taken)}
            taken |= steps
            endings |= {name: what for name, what in found.items() if isinstance(what, Ending)}
            _share(spent, seconds, {name: step.tokens for name, step in steps.items()})
            self._account(group, taken, seconds)
        going = [member for member in members if member.name in taken]
        due = [member for member in going if member.progress.step + 1 in member.evaluations]
        evaluated = self._evaluate(due, spent, endings)
        for member in going:
            self._record(member, taken[member.name], evaluated.get(member.name), spent[member.name])
        self._decide(going, evaluated, endings)
        rest = time.perf_counter() - began - sum(spent.values())
        peak = self._memory.bytes()
        for member in members:
            self._advance(member, seconds=rest / len(members), peak=peak)
        if endings:
            self._memory = None
        return [(self.members.pop(name), endings[name]) for name in spent if name in endings]

    def save(self, folder: Path, records: Iterable[TrialRecord]) -> None:
        """A checkpoint. Metrics first: it must never be ahead of its curves, even after a power cut."""
        for member in self.members.values():
            if member.progress.step:
                sync_file(member.folder / METRICS)
        standing = [member.standing for member in self.members.values()]
        save_checkpoint(self.task.engine, folder, standing, records)

    def _account(self, group: Sequence[Member], taken: dict[str, Taken], seconds: float) -> None:
        """Note what a step alone costs, and what sharing has saved since."""
        tokens = {member.name: taken[member.name].tokens for member in group if member.name in taken}
        total = sum(tokens.values())
        for member in group:
            own, per_token = tokens.get(member.name, 0), member.progress.alone_seconds_per_token
            if not own:
                continue
            if len(group) == 1:
                if member.progress.step == _ALONE:
                    self._change(member, alone_seconds_per_token=seconds / own)
            elif per_token is not None:
                shared = member.progress.shared_seconds + seconds * own / total
                alone = member.progress.shared_seconds_alone + per_token * own
                self._change(member, shared_seconds=shared, shared_seconds_alone=alone)
            self._change(member, pack_size=max(member.progress.pack_size, len(self.members)))

    def _begin(self, members: Sequence[Member], spent: dict[str, float]) -> None:
        """The evaluations that come before a first step. One that cannot be made is left out: the step will tell."""
        fresh = [member for member in members if member.progress.step == 0 and 0 in member.evaluations]
        for name, evaluation in self._evaluate(fresh, spent, {}).items():
            rewarded = {"test_nll": evaluation.test_nll, "test_reward": evaluation.test_reward}
            metric = Metric(step=0, tokens=0, seconds=round(spent[name], 4), **rewarded)
            append_metric(self.members[name].folder / METRICS, metric)

    def _evaluate(
        self, due: Sequence[Member], spent: dict[str, float], endings: dict[str, Ending]
    ) -> dict[str, Evaluation]:
        """How good those that are due are on the held-out data; one of which that cannot be said has ended."""
        if not due or not self.task.test:
            return {}
        began = time.perf_counter()
        measured = self._work.evaluate(due)
        _share(spent, time.perf_counter() - began, {member.name: 1 for member in due})
        found: dict[str, Evaluation] = {}
        for member in due:
            evaluation = measured[member.name]
            if isinstance(evaluation, Ending):
                endings[member.name] = evaluation
            else:
                found[member.name] = member.evaluation = evaluation
        return found

    def _record(self, member: Member, taken: Taken, evaluation: Evaluation | None, seconds: float) -> None:
        """Count the step and write its line."""
        done = member.progress
        self._change(member, step=done.step + 1, tokens=done.tokens + taken.tokens, seconds=done.seconds + seconds)
        metric = Metric(
            step=member.progress.step,
            tokens=member.progress.tokens,
            train_nll=taken.train_nll,
            test_nll=None if evaluation is None else evaluation.test_nll,
            test_reward=None if evaluation is None else evaluation.test_reward,
            lr=taken.learning_rate,
            grad_norm=taken.grad_norm,
            seconds=round(member.progress.seconds, 4),
            **taken.measures,
        )
        append_metric(member.folder / METRICS, metric)
        self.hooks.on_step(member.trial, member.steps, metric)

    def _decide(self, going: Sequence[Member], evaluated: dict[str, Evaluation], endings: dict[str, Ending]) -> None:
        """Who is pruned, and who has finished."""
        for member in going:
            step, name = member.progress.step, member.name
            if name in endings:
                continue
            if step == member.steps:
                sync_file(member.folder / METRICS)
                if member.evaluation is not None:
                    write_json(member.folder / EXAMPLES, member.evaluation.examples)
                if used := member.liveness.experts():
                    write_json(member.folder / EXPERTS, {use.module: use.facts() for use in used})
                endings[name] = Ending("finished", evaluated.get(name))
            elif name in evaluated:
                pruning = self.hooks.should_prune(member.trial, step, evaluated[name].loss)
                if pruning:
                    endings[name] = Ending("pruned", evaluated[name], pruned_by=pruning.rival, error=pruning.reason)

    def _advance(self, member: Member, seconds: float, peak: int) -> None:
        done = member.progress
        self._change(member, seconds=done.seconds + seconds, peak_memory_bytes=max(done.peak_memory_bytes, peak))

    @staticmethod
    def _change(member: Member, **fields: object) -> None:
        member.progress = member.progress.model_copy(update=fields)


def _groups(members: Sequence[Member]) -> list[list[Member]]:
    """Who shares passes in the next step: all, but for those whose step alone is timed."""
    timed = [[member] for member in members if member.progress.step == _ALONE]
    others = [member for member in members if member.progress.step != _ALONE]
    return [*timed, others] if others else timed


def _share(spent: dict[str, float], seconds: float, weights: dict[str, int]) -> None:
    """Add each one's part of a time to what it has spent."""
    total = sum(weights.values())
    for name, weight in weights.items():
        spent[name] += seconds * weight / total


def run_pack(
    pack: Pack,
    folder: Path,
    *,
    refill: Callable[[], None],
    settle: Callable[[Member, Ending], None],
    records: Callable[[], Iterable[TrialRecord]] = tuple,
    saved: Callable[[], None] = lambda: None,
) -> None:
    """Rounds until the pack is empty and nothing refills it; what goes on after a kill is in `folder`.

    Args:
        refill: called before the first round and whenever trials have ended: whoever is to join joins.
        settle: called with each trial that ended.
        records: for the checkpoint, the trials that have ended.
        saved: called after each checkpoint: what is younger may happen again, what is older will not.

    Raises Interrupted after a checkpoint when the hooks say so, and whatever the round raises.
    """
    spec = pack.task.spec
    last = time.perf_counter()
    refill()
    while pack.members:
        ended = pack.round()
        for member, ending in ended:
            settle(member, ending)
        if ended:
            refill()
        stopping = pack.hooks.should_stop()
        if pack.members and (stopping or time.perf_counter() - last >= spec.checkpoint_seconds):
            pack.save(folder, records())
            saved()
            last = time.perf_counter()
        if pack.members and stopping:
            raise Interrupted
    delete_checkpoint(folder)
    saved()
