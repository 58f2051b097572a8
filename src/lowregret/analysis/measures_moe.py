"""The statistics of the question of mixtures of experts. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable

from lowregret.analysis.evidence import FULL, Condition, Evidence
from lowregret.analysis.fits import Estimate
from lowregret.analysis.measures import Measure, Measures
from lowregret.analysis.measures_more import learned_by_full
from lowregret.spec import LoRA
from lowregret.spec.questions_moe import MoEQuestion

ALIKE = 0.05
"""Adapters whose numbers of parameters differ by no more than this share are as large as each other."""


def moe(evidence: Evidence) -> Measures:
    """SCIENCE.md 3.6, 3.1, 3.13 and 4."""
    condition, question = evidence.conditions["main"], evidence.question
    assert isinstance(question, MoEQuestion)
    learned, full = learned_by_full(condition), condition.best(FULL)
    if learned is None or full is None or full.loss is None:
        return {}
    both, experts = question.both, question.experts
    attention, same = question.attention(question.attention_rank), question.at_equal_rank()
    regret = condition.difference(both.name, FULL)
    return {
        "moe-attention": _matched(condition, [(attention, experts)], learned, fewer=True),
        "moe-all": _difference(condition, experts, both, learned),
        "moe-regret": Measure(None if regret is None else regret.over(full.loss.value)),
        "moe-per-active": _matched(
            condition, [(both, other) for other in question.at_equal_parameters().values()], learned
        ),
        "moe-undivided": _difference(condition, both, same["full-rank-each"], learned),
        "moe-per-total": _difference(condition, same["per-total"], both, learned),
    }


def _difference(condition: Condition, first: LoRA, second: LoRA, learned: float) -> Measure:
    """Loss of the first minus that of the second, as a share of what FullFT learns."""
    found = condition.difference(first.name, second.name)
    return Measure(None if found is None else found.over(learned))


def _matched(
    condition: Condition, pairs: Iterable[tuple[LoRA, LoRA]], learned: float, *, fewer: bool = False
) -> Measure:
    """The largest difference of pairs that must have as many parameters; open when a pair has not, or has no result.

    With `fewer` it is enough that the first of a pair has no fewer.
    """
    found: dict[str, Estimate] = {}
    details: dict[str, float | None] = {}
    notes, missing = [], []
    for first, second in pairs:
        own, other = parameters(condition, first), parameters(condition, second)
        if own is None or other is None:
            missing.append(f"{first.name} and {second.name} cannot be compared.")
            continue
        ratio = own / other
        details[f"{first.name} over {second.name}, parameters"] = ratio
        if ratio < 1 - ALIKE or (ratio > 1 + ALIKE and not fewer):
            notes.append(f"{first.name} has {ratio:.2f} times the parameters of {second.name}.")
        share = _difference(condition, first, second, learned).estimate
        if share is not None:
            found[second.name] = share
            details[f"{first.name} over {second.name}"] = share.value
    most = max(found, key=lambda name: found[name].value, default=None)
    if most is None:
        return Measure(None, " ".join(missing), details)
    estimate = found[most]
    if notes:
        notes.append("Give other ranks for this base.")
    if notes or missing:
        notes += missing
        estimate = Estimate(value=estimate.value, n=estimate.n)
    elif len(found) > 1:
        notes.append(f"Most over {most}.")
    return Measure(estimate, " ".join(notes), details)


def parameters(condition: Condition, method: LoRA) -> int | None:
    """Trainable parameters of a method, as a finished run counted them."""
    return next((run.record.trainable_parameters for run in condition.at_best(method.name)), None)
