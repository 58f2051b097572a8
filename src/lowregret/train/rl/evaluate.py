"""`lowregret eval` by reward: the held-out problems of a task, drawn by the same random numbers as in training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lowregret.errors import DivergedError, ModelError, SpecError
from lowregret.export.peft import load_adapter
from lowregret.lora.formats.peft import read_adapter
from lowregret.spec import RL, TrainingSpec
from lowregret.spec.method import Quantisation
from lowregret.train.inputs import grading, make_engine, make_workload, open_inputs
from lowregret.train.members import TrialOutcome
from lowregret.train.rl.rollout import Rollout, draw_seed
from lowregret.train.rl.sampling import Sampling, sampling_lines, ungraded
from lowregret.train.rl.work import EVALUATION_SEED, RLWorkload


@dataclass(frozen=True)
class Rewards:
    """What the held-out problems gave."""

    reward: float
    """The mean of the problems' mean rewards."""
    pass_rates: tuple[float, ...]
    """Of each problem: the share of its completions with a reward of 1 or more."""
    samples: int
    """Completions of each."""
    tokens: int
    """Of all completions."""
    failures: int
    """Completions that could not be graded."""


def evaluate_reward(
    spec: TrainingSpec,
    adapter: Path | None = None,
    quantisation: Quantisation = "none",
    say: Callable[[str], None] = print,
) -> Rewards:
    """The rewards of the base `spec.model`, or of an adapter on it, on the held-out problems of `spec.objective`.

    The mean is the last `test_reward` of the training that made the adapter, for the same held-out problems: to the bit
    in float32 on one device. SpecError for the task, or when it can grade no completion, DataError for its rows,
    DivergedError when the policy gives no probabilities, ModelError when not even one row fits in memory.
    """
    assert isinstance(spec.objective, RL)
    if adapter is not None:
        read_adapter(adapter)  # what is wrong with it is said before the problems are read
    inputs = open_inputs(spec, say)
    engine = make_engine(spec, inputs.source, quantisation)
    for line in sampling_lines(engine, spec.objective):
        say(line)
    policy = "base"
    if adapter is not None:
        policy = load_adapter(engine, "adapter", adapter, say).name
    with grading(spec, say) as grader:
        workload = make_workload(inputs, engine, grader, say)
        assert isinstance(workload, RLWorkload)
        count = spec.objective.eval_samples
        sampling = Sampling(engine, spec.objective, workload.grade, say, workload.longest_row)
        prompts = [prompt for prompt in workload.test for _ in range(count)]
        samples = sampling.draw({policy: prompts}, {policy: draw_seed(EVALUATION_SEED, 0)})[policy]
        if isinstance(samples, TrialOutcome):
            raise ModelError(f"{spec.model}: {samples.error}")
        if not all(sample.finite for sample in samples):
            raise DivergedError(f"{adapter or spec.model}: its probabilities are not finite.")
        grades = workload.grade([(sample.text, sample.prompt.problem) for sample in samples])
    rollout = Rollout(samples, grades, count)
    if rollout.failure is not None:
        raise SpecError(ungraded(spec.objective, rollout))
    rewards = [math.fsum(group) / count for group in rollout.groups]
    passed = [grade.reward >= 1 for grade in grades]
    return Rewards(
        reward=math.fsum(rewards) / len(rewards),
        pass_rates=tuple(sum(passed[start : start + count]) / count for start in range(0, len(passed), count)),
        samples=count,
        tokens=sum(len(sample.completion.token_ids) for sample in samples),
        failures=sum(grade.failure is not None for grade in grades),
    )
