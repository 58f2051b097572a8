"""How many held-out examples judge a trial, so that evaluating stays cheap beside training. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EVALUATION_SHARE = 0.2
"""What all evaluations of a trial together may cost, of its training, where nobody says how many examples judge."""
STEP_FORWARDS = 2.0
"""Forward passes that a training step costs, a token, with LoRA: W x and the gradient of x (SCIENCE 3.9). FullFT's are
3; the cheaper one is taken, so that neither method evaluates for more than its share."""
ENOUGH = 64
"""Examples below which evaluations before the last step are given up in favour of more examples at the end."""
FEWEST = 8
"""Examples that judge however short the training is, where there are as many."""


@dataclass(frozen=True)
class EvaluationBudget:
    """What is evaluated, and what that costs."""

    examples: int
    """The first so many of the held-out examples."""
    evaluations: int
    """Times that a trial is evaluated: the last ones of those asked for."""
    share: float
    """What that costs, of the training of a LoRA: 0.2 is a fifth."""


def evaluation_share(held_out_tokens: float, evaluations: int, train_tokens: float) -> float:
    """What `evaluations` passes over the held-out tokens cost, of the training of a LoRA on `train_tokens`."""
    return evaluations * held_out_tokens / (STEP_FORWARDS * train_tokens)


def choose_evaluation(
    lengths: Sequence[float], train_tokens: float, evaluations: int, *, fewest: int = 1
) -> EvaluationBudget:
    """The most held-out examples that keep all evaluations of a trial within a fifth of its training.

    n is the largest number for which evaluations · Σ lengths[:n] ≤ 0.2 · 2 · train_tokens. While n is under 64 and
    there are more examples, the earliest evaluation is given up, never the last, nor one of the last `fewest`; then n
    is 8 at least.

    Args:
        lengths: tokens of each held-out example, in the order in which they are taken; not empty.
        train_tokens: tokens that a trial trains on, counting repeats.
        evaluations: held-out evaluations of a trial that are asked for, 1 or more.
        fewest: evaluations that must stay; `evaluations` where the user has chosen them.
    """
    enough = min(ENOUGH, len(lengths))
    while (found := _within(lengths, train_tokens, evaluations)) < enough and evaluations > fewest:
        evaluations -= 1
    examples = max(found, min(FEWEST, len(lengths)))
    return EvaluationBudget(examples, evaluations, evaluation_share(sum(lengths[:examples]), evaluations, train_tokens))


def _within(lengths: Sequence[float], train_tokens: float, evaluations: int) -> int:
    """How many examples the budget allows."""
    left = EVALUATION_SHARE * STEP_FORWARDS * train_tokens / evaluations
    for count, length in enumerate(lengths):
        left -= length
        if left < 0:
            return count
    return len(lengths)
