"""How many steps a run takes and the learning rate of each."""

from __future__ import annotations

import math

from lowregret.spec import OptimizerSpec, TrainingSpec


def total_examples(spec: TrainingSpec, examples: int) -> int:
    """Examples that a run visits, counting repeats."""
    if spec.steps is not None:
        return spec.steps * spec.batch_size
    return max(1, round(examples * (spec.epochs or 1.0)))


def total_steps(spec: TrainingSpec, examples: int) -> int:
    """Optimizer steps of a run; the last may have a smaller batch."""
    return math.ceil(total_examples(spec, examples) / spec.batch_size)


def rate_factor(optimizer: OptimizerSpec, step: int, steps: int) -> float:
    """What the learning rate is multiplied with at `step` (from 0) of `steps`."""
    if step < optimizer.warmup_steps:
        return (step + 1) / optimizer.warmup_steps
    span = max(steps - optimizer.warmup_steps, 1)
    done = (step - optimizer.warmup_steps) / span
    if optimizer.schedule == "linear":
        return 1.0 - done
    if optimizer.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    if optimizer.schedule == "wsd":
        return min(1.0, (1.0 - done) / optimizer.decay_fraction)
    return 1.0


def eval_steps(evals: int | tuple[int, ...], steps: int) -> set[int]:
    """The steps (counted from 1) after which the held-out loss is measured; the last is always one of them.

    A number of evaluations is spread from the end backwards, each a factor of √2 before the next: losses are about
    straight in the logarithm of the step (SCIENCE 3.1). Where that would name a step twice, the one before is taken.
    Of a list of steps, those are left out that the run does not reach.
    """
    if isinstance(evals, tuple):
        return {step for step in evals if step < steps} | {steps}
    found = {steps}
    for index in range(1, evals):
        step = min(round(steps / math.sqrt(2) ** index), min(found) - 1)
        if step < 1:
            break
        found.add(step)
    return found
