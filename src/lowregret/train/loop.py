"""The one training loop: a pack of trials in lockstep over one copy of the base. A trial alone is a pack of one.

Every round is one optimizer step of each member, with its own data, rate, schedule and step count. Members come and go:
what one does changes no number of another but by the rounding of products of another size.

    pack = Pack(workload)
    begin(pack, trial, folder)                      # train.trial: a policy and a record, and it joins
    for done in rounds(pack, folder):               # a round each; checkpoints between them
        for member, outcome in done.ended:
            conclude(pack, member, outcome, deliver)  # how it ended, and what it ships
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lowregret.activity import doing
from lowregret.runs.atomic import sync_file, write_json
from lowregret.runs.files import EXAMPLES, EXPERTS, METRICS
from lowregret.runs.metrics import append_metric
from lowregret.runs.records import Metric, TrialRecord
from lowregret.spec import FullFT, TrialSpec
from lowregret.train.checkpoint import Progress, delete_checkpoint, save_checkpoint
from lowregret.train.interrupt import Interrupted
from lowregret.train.liveness import expert_use
from lowregret.train.members import Evaluation, Member, StepResult, TrialOutcome, Workload
from lowregret.train.peak_memory import PeakMemory

_ALONE = 1
"""Steps done before the one that every trial takes in passes of its own. In the first, much happens for the first
time; the second tells what a step alone costs."""
OnStep = Callable[[TrialSpec, int, Metric], None]
"""Told of (a trial, its total steps, the metric of the step that it has taken)."""


@dataclass
class Round:
    """What a round has brought."""

    order: tuple[str, ...]
    """Who took part, by policy, in the order in which they had joined."""
    measured: dict[str, Evaluation]
    """By policy: mid-run evaluations of members that go on. `Pack.prune` ends one."""
    ended: list[tuple[Member, TrialOutcome]]
    """Those that ended with it, in order: members no more, their policies still on the engine."""
    saved: bool = field(default=False, kw_only=True)
    """Whether a checkpoint was written since the round before."""


class Pack:
    """Trials in training on one engine."""

    def __init__(self, workload: Workload, on_step: OnStep = lambda trial, steps, metric: None) -> None:
        self.workload = workload
        self.on_step = on_step
        self.members: dict[str, Member] = {}
        """By policy, in the order in which they joined: the order of their rows in a pass."""
        self.trains_base = False
        """A FullFT trial has joined: the base is its own, and nobody else may."""
        self.past: Sequence[TrialRecord] = ()
        """The records of those no longer in training, for checkpoints: whoever concludes them keeps it up to date."""
        self._step = workload.stepper()
        self._memory: PeakMemory | None = None

    def join(self, name: str, trial: TrialSpec, folder: Path, progress: Progress | None = None) -> None:
        """A trial whose policy is on the engine; `progress` when it has been trained before."""
        self.members[name] = self._step.enter(name, trial, folder, progress or Progress())
        self.trains_base = self.trains_base or isinstance(trial.method, FullFT)
        self._memory = None

    def round(self) -> Round:
        """One step of every member.

        Writes a line of each one's metrics.jsonl, and examples.json of those that finished. Raises LivenessError, or
        RecordsError when the disk refuses.
        """
        began = time.perf_counter()
        self._memory = self._memory or PeakMemory(self.workload.engine.device)
        members = list(self.members.values())
        elapsed = dict.fromkeys(self.members, 0.0)
        outcomes: dict[str, TrialOutcome] = {}
        self._evaluate_first(members, elapsed)
        results: dict[str, StepResult] = {}
        for group in _groups(members):
            found, seconds = self._step(group)
            steps = {name: what for name, what in found.items() if isinstance(what, StepResult)}
            results |= steps
            outcomes |= {name: what for name, what in found.items() if isinstance(what, TrialOutcome)}
            _share(elapsed, seconds, {name: step.tokens for name, step in steps.items()})
            self._account(group, results, seconds)
        going = [member for member in members if member.name in results]
        due = [member for member in going if member.progress.step + 1 in member.evaluations]
        evaluated = self._evaluate(due, elapsed, outcomes)
        for member in going:
            self._record(member, results[member.name], evaluated.get(member.name), elapsed[member.name])
        measured = self._finish(going, evaluated, outcomes)
        rest = time.perf_counter() - began - sum(elapsed.values())
        peak = self._memory.bytes()
        for member in members:
            self._advance(member, seconds=rest / len(members), peak=peak)
        if outcomes:
            self._memory = None
        ended = [(self.members.pop(name), outcomes[name]) for name in elapsed if name in outcomes]
        return Round(tuple(elapsed), measured, ended)

    def prune(self, done: Round, name: str, error: str, rival: str) -> None:
        """Stop one that a round has measured, for a reason in words, by comparison with the trial `rival`."""
        self._end(done, name, TrialOutcome("pruned", done.measured.pop(name), error=error, pruned_by=rival))

    def stop(self, done: Round, name: str, error: str) -> None:
        """Stop one that took part in a round, for a reason in words: it has failed, and says nothing of its rate."""
        self._end(done, name, TrialOutcome("failed", done.measured.pop(name, None), error=error))

    def _end(self, done: Round, name: str, outcome: TrialOutcome) -> None:
        done.ended.append((self.members.pop(name), outcome))
        done.ended.sort(key=lambda each: done.order.index(each[0].name))
        self._memory = None

    def pause(self, done: Round, name: str) -> Member:
        """Take one that a round has measured out of the pack, to go on another time; its policy is still there."""
        del done.measured[name]
        member = self.members.pop(name)
        sync_file(member.folder / METRICS)
        save_checkpoint(self.workload.engine, member.folder, [member.standing], (), self.workload.identity)
        self._memory = None
        return member

    def save(self, folder: Path) -> None:
        """A checkpoint. Metrics first: it must never be ahead of its curves, even after a power cut."""
        for member in self.members.values():
            if member.progress.step:
                sync_file(member.folder / METRICS)
        standing = [member.standing for member in self.members.values()]
        save_checkpoint(self.workload.engine, folder, standing, self.past, self.workload.identity)

    def _account(self, group: Sequence[Member], results: dict[str, StepResult], seconds: float) -> None:
        """Note what a step alone costs, and what sharing has saved since."""
        tokens = {member.name: results[member.name].tokens for member in group if member.name in results}
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

    def _evaluate_first(self, members: Sequence[Member], elapsed: dict[str, float]) -> None:
        """The evaluations that come before a first step. One that cannot be made is left out: the step will tell."""
        fresh = [member for member in members if member.progress.step == 0 and 0 in member.evaluations]
        for name, evaluation in self._evaluate(fresh, elapsed, {}).items():
            rewarded = {"test_nll": evaluation.test_nll, "test_reward": evaluation.test_reward}
            metric = Metric(step=0, tokens=0, seconds=round(elapsed[name], 4), **rewarded)
            append_metric(self.members[name].folder / METRICS, metric)

    def _evaluate(
        self, due: Sequence[Member], elapsed: dict[str, float], outcomes: dict[str, TrialOutcome]
    ) -> dict[str, Evaluation]:
        """How good those that are due are on the held-out data; one of which that cannot be said has ended."""
        if not due or not self.workload.test:
            return {}
        began = time.perf_counter()
        measured = self._step.evaluate(due)
        seconds = time.perf_counter() - began
        _share(elapsed, seconds, {member.name: 1 for member in due})
        for member in due:
            self._change(member, evaluation_seconds=seconds / len(due))
        found: dict[str, Evaluation] = {}
        for member in due:
            evaluation = measured[member.name]
            if isinstance(evaluation, TrialOutcome):
                outcomes[member.name] = evaluation
            else:
                found[member.name] = member.evaluation = evaluation
        return found

    def _record(self, member: Member, result: StepResult, evaluation: Evaluation | None, seconds: float) -> None:
        """Count the step and write its line."""
        done = member.progress
        self._change(member, step=done.step + 1, tokens=done.tokens + result.tokens, seconds=done.seconds + seconds)
        metric = Metric(
            step=member.progress.step,
            tokens=member.progress.tokens,
            train_nll=result.train_nll,
            test_nll=None if evaluation is None else evaluation.test_nll,
            search_nll=None if evaluation is None else evaluation.search_nll,
            test_reward=None if evaluation is None else evaluation.test_reward,
            lr=result.learning_rate,
            grad_norm=result.grad_norm,
            seconds=round(member.progress.seconds, 4),
            **result.measures,
        )
        append_metric(member.folder / METRICS, metric)
        self.on_step(member.trial, member.steps, metric)

    def _finish(
        self, going: Sequence[Member], evaluated: dict[str, Evaluation], outcomes: dict[str, TrialOutcome]
    ) -> dict[str, Evaluation]:
        """Who has taken its last step; returns what was measured of the others."""
        measured: dict[str, Evaluation] = {}
        for member in going:
            name = member.name
            if name in outcomes:
                continue
            if member.progress.step == member.steps:
                sync_file(member.folder / METRICS)
                if member.evaluation is not None:
                    write_json(member.folder / EXAMPLES, member.evaluation.examples)
                if used := expert_use(self.workload.engine, name):
                    write_json(member.folder / EXPERTS, {use.module: use.facts() for use in used})
                outcomes[name] = TrialOutcome("finished", evaluated.get(name))
            elif name in evaluated:
                measured[name] = evaluated[name]
        return measured

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


def _share(elapsed: dict[str, float], seconds: float, weights: dict[str, int]) -> None:
    """Add each one's part of a time to what it has taken."""
    total = sum(weights.values())
    for name, weight in weights.items():
        elapsed[name] += seconds * weight / total


def rounds(pack: Pack, folder: Path, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Round]:
    """Rounds until the pack is empty; what goes on after a kill is in `folder`.

    Between two rounds a checkpoint is written when one is due, or when `should_stop` says so: then Interrupted is
    raised. Whoever ended must be concluded, and whoever is to join must join, before the next round is asked for.
    Raises whatever a round raises.
    """
    last, saved = time.perf_counter(), False
    while pack.members:
        with doing("a step of training"):
            done = pack.round()
        done.saved, saved = saved, False
        yield done
        stopping = should_stop()
        if pack.members and (stopping or time.perf_counter() - last >= pack.workload.spec.checkpoint_seconds):
            pack.save(folder)
            last, saved = time.perf_counter(), True
        if pack.members and stopping:
            raise Interrupted
    delete_checkpoint(folder)
