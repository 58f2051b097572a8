"""What an optimizer step of any objective is made of: passes cut to fit in memory, and the update of the policies."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence

from lowregret.data.batches import Batch, passes
from lowregret.engine import Engine, PassResult, StepParams, step_params
from lowregret.engine.checks import after_step, before_step, forget_gradients
from lowregret.engine.device import out_of_memory
from lowregret.engine.footprint import max_tokens
from lowregret.engine.optim.in_backward import InBackward
from lowregret.spec import TrainingSpec
from lowregret.train.members import Member, StepResult, TrialOutcome
from lowregret.train.schedule import rate_factor

ForwardBackward = Callable[[Mapping[str, Batch]], Mapping[str, PassResult]]
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
        self._one_pass = False
        """Whether a step must not be cut: its weights are stepped in the backward pass."""

    def measure(self) -> None:
        """How large a pass may be, when the policies on the engine are others than at the last step."""
        policies = tuple(self._engine.policies)
        self._one_pass = any(isinstance(own.optimizer, InBackward) for own in self._engine.policies.values())
        if self._spec.micro_batch_size is None and policies != self._measured[0]:
            budget = activation_budget(self._spec)
            self._measured = (policies, max_tokens(self._engine, policies, budget, longest=self._longest))

    def gradients(
        self, batches: Mapping[str, Batch], run: ForwardBackward, prepare: Prepare = lambda part: part
    ) -> tuple[dict[str, list[tuple[Batch, PassResult]]], dict[str, StepResult | TrialOutcome]]:
        """(the passes, as prepared, of each policy whose gradients are complete, those that do not fit in memory)."""
        batches = dict(batches)
        failed: dict[str, StepResult | TrialOutcome] = {}
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
                    failed[name] = TrialOutcome("failed", error=memory_advice(problem, one_pass=self._one_pass))
        return {}, failed

    def _halve(self, part: Mapping[str, Batch]) -> bool:
        """Make passes smaller than this one; False when the spec decides their size, or one row is all there is, or
        what has broken off has moved weights."""
        if self._one_pass or self._spec.micro_batch_size is not None or sum(batch.rows for batch in part.values()) == 1:
            return False
        self._most = max(1, sum(batch.tokens for batch in part.values()) // 2)
        return True

    def _limit(self) -> int | None:
        """Tokens of a pass; None when the spec says how many rows it has, or all are in one."""
        return None if self._one_pass or self._spec.micro_batch_size is not None else min(self._measured[1], self._most)


def update(
    engine: Engine, members: Sequence[Member], params: Mapping[str, StepParams]
) -> tuple[dict[str, float | None], dict[str, TrialOutcome], float]:
    """One optimizer step of each member, by its parameters, once its gradients are complete.

    Returns (the gradient norm of each, how those ended that had no memory, seconds without the checks). The first steps
    are watched: LivenessError when a matrix of any member is dead.
    """
    names = [member.name for member in members]
    before_step(engine, names)
    began = time.perf_counter()
    try:
        norms = engine.optim_step({name: params[name] for name in names})
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        # The moments of some found no room, and which updates were done is unknown: none of them can go on.
        failed = TrialOutcome("failed", error=memory_advice(str(error)))
        return {}, dict.fromkeys(names, failed), 0.0
    seconds = time.perf_counter() - began
    after_step(engine, names)
    return dict(norms), {}, seconds


def memory_advice(problem: str, *, one_pass: bool = False) -> str:
    """What a trial's record says when it did not fit; `one_pass`: its step cannot be cut."""
    remedy = "--checkpoint-activations" if one_pass else "a lower --micro-batch-size"
    return f"out of memory: {problem} Run the same command with {remedy}: the trial starts again."


def scheduled_params(spec: TrainingSpec, member: Member) -> StepParams:
    """The hyper-parameters of a member's next step: its optimizer's, at the rate that its schedule gives."""
    optimizer = spec.stepped_by(member.trial.method)
    return step_params(
        optimizer, member.trial.learning_rate * rate_factor(optimizer, member.progress.step, member.steps)
    )


def activation_budget(spec: TrainingSpec) -> int | None:
    """Bytes for the activations of a pass, if the spec says so."""
    return None if spec.memory_gb is None else int(spec.memory_gb * 1e9)
