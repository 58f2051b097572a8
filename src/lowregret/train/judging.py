"""Which held-out examples judge a run, and after which steps: chosen once, then kept by its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowregret.data.prepare import PreparedData
from lowregret.data.table import select, token_counts
from lowregret.plan.resources.evaluation import EVALUATION_SHARE, choose_evaluation
from lowregret.spec import CompareSpec, GroupSpec, TrainingSpec
from lowregret.train.schedule import eval_steps, total_examples, total_steps


@dataclass(frozen=True)
class Judging:
    """How the trials of a run are judged."""

    data: PreparedData
    evals: tuple[int, ...] | None
    """Steps after which a trial is evaluated, where that is not as the spec says."""
    line: str
    """To be said; "" for nothing."""


def choose_judging(spec: TrainingSpec, data: PreparedData, stored: Mapping[str, Any] | None) -> Judging:
    """What the spec says, or for a comparison what keeps evaluations within a fifth of the training.

    Of a folder that has chosen before it is what was chosen. `train` judges by all, as `eval` does.

    Args:
        spec: of supervised fine-tuning.
        data: with the held-out examples that `spec.data.max_eval` leaves.
        stored: `resolved` of the folder's spec.json, when it has one. One from before there was a choice has no `evals`
            and was judged by all examples and as its spec says.
    """
    if isinstance(spec, GroupSpec):
        return Judging(data, None, "")
    steps = total_steps(spec, len(data.train))
    asked = sorted(eval_steps(spec.evals, steps))
    fixed = spec.data.max_eval is not None or not isinstance(spec, CompareSpec)
    if stored is not None:
        evals = tuple(stored["evals"]) if "evals" in stored else None
        kept = data if fixed else data.judged_by(stored["test_examples"])
        return Judging(kept, evals, "")
    if fixed:
        return Judging(data, tuple(asked), "")
    train_tokens = total_examples(spec, len(data.train)) * _mean(token_counts(data.train))
    order = data.picked or range(len(data.test))
    lengths = token_counts(select(data.test, order)).tolist()
    fewest = len(asked) if "evals" in spec.model_fields_set else 1
    found = choose_evaluation(lengths, train_tokens, len(asked), fewest=fewest)
    left = tuple(asked[-found.evaluations :])
    if found.examples == len(data.test) and len(left) == len(asked):
        return Judging(data, left, "")
    when = f"after step{'s' if len(left) > 1 else ''} {', '.join(map(str, left))}"
    dropped = len(asked) - len(left)
    given_up = f" ({dropped} earlier evaluation{'s' if dropped > 1 else ''} given up)" if dropped else ""
    line = (
        f"judged by {found.examples:,} of {len(data.test):,} held-out examples, {when}{given_up}: evaluation costs "
        f"{100 * found.share:.0f} % of a trial's training, and is to stay within {100 * EVALUATION_SHARE:.0f} %; "
        "--max-eval takes another number"
    )
    return Judging(data.judged_by(found.examples), left, line)


def _mean(lengths: NDArray[np.int64]) -> float:
    return int(lengths.sum()) / len(lengths)
