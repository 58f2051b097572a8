"""From sampled completions to the batch of a step: groups, advantages, what is dropped, and what is worth recording."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float32
from torch import Tensor

from lowregret.data.batches import Batch, collate
from lowregret.data.example import Example
from lowregret.engine import Completion
from lowregret.runs.records import Metric, RewardMetric
from lowregret.tasks import Grade, total_failure
from lowregret.train.rl.problems import Prompt

STD_EPSILON = 1e-4
"""What GRPO implementations (TRL's among them) add to the standard deviation that they divide by."""


@dataclass(frozen=True)
class Sample:
    """A completion of a problem."""

    prompt: Prompt
    completion: Completion
    text: str
    """What is graded: without special tokens, cut before a stop text."""

    @property
    def tokens(self) -> int:
        """Of prompt and completion."""
        return len(self.prompt.token_ids) + len(self.completion.token_ids)

    @property
    def finite(self) -> bool:
        """Whether the policy that drew it still gives probabilities."""
        return all(map(math.isfinite, self.completion.logprobs))

    @property
    def example(self) -> Example:
        """As a row whose completion is supervised."""
        prompt, completion = self.prompt.token_ids, self.completion.token_ids
        return Example((*prompt, *completion), (False,) * len(prompt) + (True,) * len(completion))


@dataclass(frozen=True)
class Rollout:
    """The graded samples of one policy in one step: groups of `size` completions of one problem each, in order."""

    samples: Sequence[Sample]
    grades: Sequence[Grade]
    size: int

    @property
    def groups(self) -> list[list[float]]:
        """The rewards, group by group."""
        rewards = [grade.reward for grade in self.grades]
        return [rewards[start : start + self.size] for start in range(0, len(rewards), self.size)]

    @property
    def failure(self) -> str | None:
        """Why not one of the samples could be graded; None when one could."""
        return total_failure(self.grades)

    @property
    def dropped(self) -> int:
        """Groups whose rewards are all equal."""
        return sum(len(set(group)) == 1 for group in self.groups)


def advantages(rewards: Sequence[float], *, divide_by_std: bool = False) -> list[float]:
    """Each reward minus the mean of the group; with `divide_by_std`, over its standard deviation (n − 1) plus 1e-4."""
    mean = math.fsum(rewards) / len(rewards)
    centred = [reward - mean for reward in rewards]
    if not divide_by_std:
        return centred
    deviation = math.sqrt(math.fsum(value * value for value in centred) / (len(rewards) - 1))
    return [value / (deviation + STD_EPSILON) for value in centred]


def batches(
    rollout: Rollout, pad_id: int, *, parts: int = 1, divide_by_std: bool = False, shared: bool = True
) -> list[Batch | None]:
    """One batch for each update, of an equal part of the groups (the first ones larger); None for one with no group.

    Groups of equal rewards have no advantage and are left out. They still count in the weights, 1 / (completion tokens
    of the part), so that leaving them out changes nothing but time in the gradient of the advantages; a KL penalty or
    an entropy bonus is taken over the groups that are left. A row's number is its sample's.
    Without `shared`, each row has a prompt of its own: for a policy that `Engine.shares` denies.
    """
    groups = rollout.groups
    size, longer = divmod(len(groups), parts)
    found: list[Batch | None] = []
    start = 0
    for part in range(parts):
        stop = start + size + (part < longer)
        batch = _batch(rollout, range(start, stop), pad_id, divide_by_std)
        found.append(batch if batch is None or shared else replace(batch, prompts=None))
        start = stop
    return found


def _batch(rollout: Rollout, part: range, pad_id: int, divide_by_std: bool) -> Batch | None:
    groups, size = rollout.groups, rollout.size
    kept: list[tuple[int, float]] = []
    tokens = 0
    for index in part:
        numbers = range(index * size, (index + 1) * size)
        tokens += sum(len(rollout.samples[number].completion.token_ids) for number in numbers)
        if len(set(groups[index])) > 1:
            kept += zip(numbers, advantages(groups[index], divide_by_std=divide_by_std), strict=True)
    if not kept:
        return None
    kept.sort(key=lambda row: rollout.samples[row[0]].tokens)
    rows = [rollout.samples[number] for number, _ in kept]
    batch = collate([row.example for row in rows], pad_id)
    numbers_of = torch.tensor([number for number, _ in kept])
    lengths = batch.supervised.sum(1)
    spread = torch.tensor([advantage for _, advantage in kept]).repeat_interleave(lengths)
    sampled = torch.tensor([logprob for row in rows for logprob in row.completion.logprobs])
    return replace(
        batch,
        numbers=numbers_of,
        weights=batch.supervised.float() / tokens,
        columns={"advantages": column(batch, spread), "sampler_logprobs": column(batch, sampled)},
        prompts=numbers_of // rollout.size,
    )


def column(batch: Batch, values: Float32[Tensor, " supervised"]) -> Float32[Tensor, "rows length"]:
    """Values of the supervised positions, row by row, in their places; 0 elsewhere."""
    found = torch.zeros(batch.supervised.shape, dtype=torch.float32)
    found[batch.supervised] = values.float().cpu()
    return found


def measure(rollout: Rollout, gaps: tuple[float, float] | None, kl: float | None) -> RewardMetric:
    """What a line of metrics.jsonl says; `gaps` are the mean and largest |log p_learner − log p_sampler|."""
    samples, grades, count = rollout.samples, rollout.grades, len(rollout.samples)
    tokens = sum(len(sample.completion.token_ids) for sample in samples)
    return RewardMetric(
        reward=math.fsum(grade.reward for grade in grades) / count,
        pass_rate=sum(grade.reward >= 1 for grade in grades) / count,
        length=tokens / count,
        truncated=sum(not sample.completion.finished for sample in samples) / count,
        entropy=-math.fsum(logprob for sample in samples for logprob in sample.completion.logprobs) / max(tokens, 1),
        logprob_gap=None if gaps is None else gaps[0],
        logprob_gap_max=None if gaps is None else gaps[1],
        kl=kl,
        groups=len(rollout.groups),
        dropped_groups=rollout.dropped,
        bits=math.fsum(len(group) * entropy_bits(group) for group in rollout.groups),
        failures=sum(grade.failure is not None for grade in grades),
    )


def unmoved(metrics: Sequence[Metric]) -> str | None:
    """What to say of a trial in which every group of every step was dropped; None of any other.

    A step without a group has no update: neither a KL penalty nor weight decay moves the weights then.
    """
    steps = [metric.rl for metric in metrics if metric.rl is not None]
    if not steps or any(step.dropped_groups < step.groups for step in steps):
        return None
    rewards = {step.reward for step in steps}
    what = f"every completion was rewarded {rewards.pop():g}" if len(rewards) == 1 else "rewards differ between groups"
    return (
        f"the weights did not move: in none of {len(steps)} steps did completions of one problem get different rewards "
        f"({what}). Reward what tells them apart, or raise --group-size, or take problems that the base solves "
        "sometimes"
    )


def entropy_bits(rewards: Sequence[float]) -> float:
    """The entropy of how often each reward occurs in a group, bits: H₂ of the pass rate when rewards are 0 or 1."""
    return math.fsum(-n / len(rewards) * math.log2(n / len(rewards)) for n in Counter(rewards).values())


def draw_seed(seed: int, step: int) -> int:
    """What draws the samples of a step: it depends on the trial's seed and the step alone, so that runs can go on."""
    return int.from_bytes(hashlib.sha256(f"rollout {seed} {step}".encode()).digest()[:6], "big")
