"""One optimizer step of any number of trials at once, LoRA or FullFT alike, and their evaluation."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from lowregret.data.batches import Batch, batch_indices, collate, passes
from lowregret.data.chat import Example
from lowregret.engine import AdamParams, Engine, PassResult
from lowregret.engine.footprint import max_tokens
from lowregret.records import ExampleLosses, ExampleRewards, keep_metrics_until, make_folder, read_metrics
from lowregret.spec import OptimizerSpec, TrainingSpec, TrialSpec
from lowregret.train.checkpoint import Progress, Standing
from lowregret.train.liveness import Liveness
from lowregret.train.schedule import eval_steps, rate_factor, total_examples, total_steps

METRICS = "metrics.jsonl"
EXAMPLES = "examples.json"


@dataclass(frozen=True)
class Task:
    """What all trials of a run share."""

    engine: Engine
    spec: TrainingSpec
    train: Sequence[Example]
    test: Sequence[Example]

    @property
    def test_tokens(self) -> int:
        """Supervised tokens of the held-out examples."""
        return sum(example.supervised_tokens for example in self.test)

    def work(self) -> Work:
        """What its trials do in a round."""
        return StepTaker(self)

    def has_room(self, members: int, policies: Sequence[str]) -> bool:
        """Whether the rows of so many trials fit in one pass: with more, steps are only cut into more passes."""
        rows = min(self.spec.micro_batch_size or self.spec.batch_size, self.spec.batch_size)
        length = sum(len(example.token_ids) for example in self.train) / len(self.train)
        return members * rows * length <= pass_tokens(self, policies)


class Job(Protocol):
    """What a pack works on: a `Task`, or its relative for another objective."""

    @property
    def engine(self) -> Engine: ...
    @property
    def spec(self) -> TrainingSpec: ...
    @property
    def test(self) -> Sequence[Any]: ...
    @property
    def test_tokens(self) -> int: ...
    def work(self) -> Work: ...
    def has_room(self, members: int, policies: Sequence[str]) -> bool: ...


class Work(Protocol):
    """What the trials of a pack do in a round, by their objective."""

    def enter(self, name: str, trial: TrialSpec, folder: Path, progress: Progress) -> Member:
        """A trial whose policy is on the engine, with its weights as they are after `progress.step` steps."""

    def __call__(self, members: Sequence[Member]) -> tuple[dict[str, Taken | Ending], float]:
        """One step of each: what became of it, and the seconds of passes and updates (checks excluded)."""

    def evaluate(self, members: Sequence[Member]) -> dict[str, Evaluation | Ending]:
        """How good each is on held-out data; `failed` or `diverged` for one of which that cannot be said."""


@dataclass(frozen=True)
class Evaluation:
    """What held-out data say about a policy: a loss, or a reward."""

    examples: ExampleLosses | ExampleRewards
    test_nll: float | None = None
    test_reward: float | None = None

    @property
    def loss(self) -> float:
        """What is to be small."""
        if self.test_nll is not None:
            return self.test_nll
        assert self.test_reward is not None
        return -self.test_reward


@dataclass
class Member:
    """A trial in training: all that the loop knows of it, its weights aside."""

    name: str
    """Its policy on the engine."""
    trial: TrialSpec
    folder: Path
    progress: Progress
    steps: int
    """Of the whole trial."""
    visits: int
    """Examples that the whole trial visits, counting repeats."""
    evaluations: frozenset[int]
    """Steps after which the held-out loss is measured."""
    liveness: Liveness
    first_nll: float | None
    """The training loss of its first step; None before it."""
    evaluation: Evaluation | None = None
    """Its last one."""

    @property
    def standing(self) -> Standing:
        return Standing(name=self.name, trial=self.trial, progress=self.progress)

    def examples(self, task: Task) -> list[Example]:
        """Those of the step to come, by length."""
        step, batch_size = self.progress.step, task.spec.batch_size
        rows = batch_indices(len(task.train), batch_size, self.trial.seed, step, self.visits)
        return sorted((task.train[i] for i in rows), key=lambda example: len(example.token_ids))


@dataclass(frozen=True)
class Taken:
    """One step that was taken."""

    train_nll: float | None
    """Before the update, nats per supervised token."""
    tokens: int
    learning_rate: float
    grad_norm: float | None
    """None when there was no gradient."""
    measures: Mapping[str, Any] = field(default_factory=dict)
    """More of its line in metrics.jsonl."""


@dataclass(frozen=True)
class Ending:
    """How a trial ended; its last whole step is in its progress."""

    status: Literal["finished", "pruned", "diverged", "failed"]
    evaluation: Evaluation | None = None
    """After its last step."""
    error: str | None = None
    pruned_by: str | None = None


def enter(task: Task, name: str, trial: TrialSpec, folder: Path, progress: Progress) -> Member:
    """A trial whose policy is on the engine, with its weights as they are after `progress.step` steps."""
    make_folder(folder)
    keep_metrics_until(folder / METRICS, progress.step or -1)
    curve = read_metrics(folder / METRICS)
    steps = total_steps(task.spec, len(task.train))
    return Member(
        name=name,
        trial=trial,
        folder=folder,
        progress=progress,
        steps=steps,
        visits=total_examples(task.spec, len(task.train)),
        evaluations=frozenset(eval_steps(task.spec.evals, steps)),
        liveness=Liveness(task.engine.policies[name]),
        first_nll=curve[0].train_nll if curve else None,
    )


def mean_nll(losses: ExampleLosses) -> float:
    """Nats per supervised token over a whole held-out set."""
    return math.fsum(losses.nll_sums) / max(sum(losses.tokens), 1)


def evaluate(engine: Engine, policies: Sequence[str], examples: Sequence[Example]) -> dict[str, ExampleLosses]:
    """The held-out losses of policies (or of `base`), example by example, in one pass for all of them."""
    return {
        name: ExampleLosses(nll_sums=tuple(nll), tokens=tuple(tokens))
        for name, (nll, tokens) in engine.evaluate(policies, examples).items()
    }


def evaluate_within_memory(
    engine: Engine, policies: Sequence[str], examples: Sequence[Example]
) -> dict[str, ExampleLosses | Ending]:
    """The same, one policy after the other where all together do not fit; `failed` for one that does not fit alone."""
    try:
        return dict(evaluate(engine, policies, examples))
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        problem = str(error)
    if len(policies) == 1:
        return {policies[0]: Ending("failed", error=memory_advice(problem))}
    found: dict[str, ExampleLosses | Ending] = {}
    for name in policies:
        found |= evaluate_within_memory(engine, [name], examples)
    return found


def pass_tokens(task: Task, policies: Sequence[str]) -> int:
    """Tokens of a pass of these policies: what the spec's memory, or else a share of the device's, allows."""
    longest = max(len(example.token_ids) for example in task.train)
    return max_tokens(task.engine, policies, activation_budget(task.spec), longest=longest)


def activation_budget(spec: TrainingSpec) -> int | None:
    """Bytes for the activations of a pass, if the spec says so."""
    return None if spec.memory_gb is None else int(spec.memory_gb * 1e9)


Run = Callable[[Mapping[str, Batch]], Mapping[str, PassResult]]
"""A forward and backward pass."""
Prepare = Callable[[Mapping[str, Batch]], Mapping[str, Batch]]
"""What is done to the batches of a pass before it."""


class Passes:
    """Cuts the batches of a step into as few passes as memory allows."""

    def __init__(self, engine: Engine, spec: TrainingSpec, longest: int) -> None:
        """`longest`: tokens of the longest row to come."""
        self._engine, self._spec, self._longest = engine, spec, longest
        self._most = sys.maxsize
        """Tokens of a pass; smaller after one that did not fit in memory."""
        self._measured: tuple[tuple[str, ...], int] = ((), 0)
        """The policies on the engine, and the tokens of a pass that these allow."""

    def measure(self) -> None:
        """How large a pass may be, when the policies on the engine are others than at the last step."""
        policies = tuple(self._engine.policies)
        if self._spec.micro_batch_size is None and policies != self._measured[0]:
            budget = activation_budget(self._spec)
            self._measured = (policies, max_tokens(self._engine, policies, budget, longest=self._longest))

    def gradients(
        self, batches: Mapping[str, Batch], run: Run, prepare: Prepare = lambda part: part
    ) -> tuple[dict[str, list[tuple[Batch, PassResult]]], dict[str, Taken | Ending]]:
        """(the passes, as prepared, of each policy whose gradients are complete, those that do not fit in memory)."""
        batches = dict(batches)
        failed: dict[str, Taken | Ending] = {}
        while batches:
            found: dict[str, list[tuple[Batch, PassResult]]] = {name: [] for name in batches}
            for part in passes(batches, self._limit(), self._spec.micro_batch_size):
                try:
                    prepared = prepare(part)
                    for name, result in run(prepared).items():
                        found[name].append((prepared[name], result))
                except (MemoryError, RuntimeError) as error:
                    if not out_of_memory(error):
                        raise
                    problem = str(error)
                    break
            else:
                return found, failed
            # A pass that broke off may have left half of its gradients: all of the step is taken again.
            for name in batches:
                forget_gradients(self._engine, name)
            if not self._halve(part):
                for name in part:
                    del batches[name]
                    failed[name] = Ending("failed", error=memory_advice(problem))
        return {}, failed

    def _halve(self, part: Mapping[str, Batch]) -> bool:
        """Make passes smaller than this one; False when the spec decides their size, or one row is all there is."""
        if self._spec.micro_batch_size is not None or sum(batch.rows for batch in part.values()) == 1:
            return False
        self._most = max(1, sum(batch.tokens for batch in part.values()) // 2)
        return True

    def _limit(self) -> int | None:
        """Tokens of a pass; None when the spec says how many rows it has."""
        return None if self._spec.micro_batch_size is not None else min(self._measured[1], self._most)


class StepTaker:
    """Takes one optimizer step of each of several members, in as few passes as memory allows."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._passes = Passes(task.engine, task.spec, max(len(example.token_ids) for example in task.train))
        self._uniform = math.log(task.engine.model.get_output_embeddings().weight.shape[0])

    def enter(self, name: str, trial: TrialSpec, folder: Path, progress: Progress) -> Member:
        """A trial whose policy is on the engine, with its weights as they are after `progress.step` steps."""
        return enter(self.task, name, trial, folder, progress)

    def evaluate(self, members: Sequence[Member]) -> dict[str, Evaluation | Ending]:
        """The held-out losses of members, in one pass for all; one that is not finite ends its trial."""
        found: dict[str, Evaluation | Ending] = {}
        steps = {member.name: member.progress.step + 1 for member in members}
        for name, losses in evaluate_within_memory(self.task.engine, list(steps), self.task.test).items():
            if isinstance(losses, Ending):
                found[name] = losses
            elif math.isfinite(nll := mean_nll(losses)):
                found[name] = Evaluation(losses, test_nll=nll)
            else:
                found[name] = Ending("diverged", error=f"the held-out loss is {nll} after step {steps[name]}.")
        return found

    def __call__(self, members: Sequence[Member]) -> tuple[dict[str, Taken | Ending], float]:
        """What became of each, and the seconds of passes and updates (checks excluded).

        A member ends here when its loss is not finite, or above twice the larger of a uniform guess and the loss of
        its first step. That one is the base's own: on data foreign to a confident base it is worse than guessing, and
        no fault of the learning rate. LivenessError when a matrix of any member is dead.
        """
        engine, spec = self.task.engine, self.task.spec
        self._passes.measure()
        began = time.perf_counter()
        examples = {member.name: member.examples(self.task) for member in members}
        pad_id = engine.base.pad_id
        batches = {name: collate(rows, pad_id) for name, rows in examples.items()}
        results, found = self._passes.gradients(batches, lambda part: engine.forward_backward(part))
        losses = _read({name: [result.loss for _, result in parts] for name, parts in results.items()})
        going = [member for member in members if member.name in losses]
        params = {m.name: adam_params(spec.optimizer, m.trial.learning_rate, m.progress.step, m.steps) for m in going}
        for member in going:
            error = self._divergence(member, losses[member.name], params[member.name])
            if error is not None:
                found[member.name] = Ending("diverged", error=error)
                del params[member.name]
        going = [member for member in going if member.name in params]
        seconds = time.perf_counter() - began
        for member in going:
            member.liveness.before_step(member.progress.step + 1)
        began = time.perf_counter()
        try:
            norms = engine.optim_step(params)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            # The moments of some found no room, and which updates were done is unknown: none of them can go on.
            return found | {m.name: Ending("failed", error=memory_advice(str(error))) for m in going}, seconds
        seconds += time.perf_counter() - began
        for member in going:
            member.liveness.after_step(member.progress.step + 1)
            train_nll = losses[member.name]
            member.first_nll = train_nll if member.first_nll is None else member.first_nll
            tokens = sum(len(example.token_ids) for example in examples[member.name])
            rate, norm = params[member.name].learning_rate, norms[member.name]
            found[member.name] = Taken(train_nll, tokens, rate, norm)
        return found, seconds

    def _divergence(self, member: Member, train_nll: float, params: AdamParams) -> str | None:
        first = member.first_nll
        limit = math.inf if first is None else 2 * max(self._uniform, first)
        if math.isfinite(train_nll) and train_nll <= limit:
            return None
        before = "" if first is None else f", and the first step's was {first:.2f}"
        return (
            f"the training loss is {train_nll:.4g} nats per token in step {member.progress.step + 1}, at learning rate "
            f"{params.learning_rate:.3g}; guessing uniformly gives {self._uniform:.2f}{before}."
        )


def _read(losses: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
    """The sum of each policy's losses, fetched from the device all at once."""
    if not losses:
        return {}
    values = iter(torch.stack([loss for parts in losses.values() for loss in parts]).tolist())
    return {name: math.fsum(next(values) for _ in parts) for name, parts in losses.items()}


def forget_gradients(engine: Engine, policy: str) -> None:
    for weight in engine.policies[policy].weights.values():
        if weight.grad is not None:
            weight.grad.zero_()


def out_of_memory(error: BaseException) -> bool:
    """torch has a class for it on GPUs; its CPU allocator only has words."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def memory_advice(problem: str) -> str:
    """What a trial's record says when it did not fit."""
    return f"out of memory: {problem} Run the same command with a lower --micro-batch-size: the trial starts again."


def adam_params(optimizer: OptimizerSpec, learning_rate: float, step: int, steps: int) -> AdamParams:
    """The hyper-parameters of one step (from 0)."""
    return AdamParams(
        learning_rate=learning_rate * rate_factor(optimizer, step, steps),
        beta1=optimizer.beta1,
        beta2=optimizer.beta2,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        clip_norm=optimizer.clip_norm,
    )
