"""What is said of mixtures of experts, each statement beside what measures it. Torch-free."""

from __future__ import annotations

from lowregret.analysis.condition import FULL, Condition
from lowregret.analysis.fits import Estimate
from lowregret.questions.claim import Evidence, Measure, Stated, Statement
from lowregret.questions.moe.spec import MoEQuestion
from lowregret.spec import LoRA

ALIKE = 0.05
"""Adapters whose numbers of parameters differ by no more than this share are as large as each other."""


def claims(question: MoEQuestion) -> tuple[Stated[MoEQuestion], ...]:
    """SCIENCE 3.6, 3.1, 3.13 and 4; the bounds are those of the same claims on dense bases where there are such."""
    return (*_of_places(question), *_of_ranks(question))


def _of_places(question: MoEQuestion) -> tuple[Stated[MoEQuestion], ...]:
    """Where the adapter goes."""
    rank = question.rank
    return (
        Stated(
            Statement(
                key="moe-attention",
                number="3.6",
                sentence="On a sparse base, attention alone is clearly worse than the experts alone, even with no "
                "fewer parameters.",
                statistic=f"loss of attention at rank {question.attention_rank} minus that of the experts at rank "
                f"{rank}, as a share of what FullFT learns",
                unit="share",
                low=0.01,
            ),
            _attention,
        ),
        Stated(
            Statement(
                key="moe-all",
                number="3.6",
                sentence="On a sparse base, adding attention to the experts gives little.",
                statistic=f"loss of the experts alone minus that of both, rank {rank}, as a share of what FullFT "
                "learns",
                unit="share",
                high=0.05,
            ),
            _all,
        ),
        Stated(
            Statement(
                key="moe-regret",
                number="3.1",
                sentence="On a sparse base, LoRA on attention and experts ends at the loss of full fine-tuning.",
                statistic=f"regret of rank {rank}, divided by the active experts, as a share of the FullFT loss",
                unit="share",
                high=question.tolerance,
            ),
            _regret,
        ),
    )


def _of_ranks(question: MoEQuestion) -> tuple[Stated[MoEQuestion], ...]:
    """What its rank means there."""
    rank = question.rank
    return (
        *(_of_convention(rank, name, other) for name, other in question.at_equal_parameters().items()),
        Stated(
            Statement(
                key="moe-undivided",
                number="3.13",
                sentence="Giving every expert the whole rank gains little over dividing it by the active experts.",
                statistic=f"loss of per-active minus that of full-rank-each, both at rank {rank}, as a share of what "
                "FullFT learns",
                unit="share",
                high=0.05,
            ),
            _undivided,
        ),
        Stated(
            Statement(
                key="moe-per-total",
                number="4",
                sentence="At the same rank, dividing it by all experts is worse than by the active ones.",
                statistic=f"loss of per-total minus that of per-active, both at rank {rank}, as a share of what FullFT "
                "learns",
                unit="share",
                low=0.01,
            ),
            _per_total,
        ),
    )


def _of_convention(rank: int, name: str, other: LoRA) -> Stated[MoEQuestion]:
    return Stated(
        Statement(
            key=f"moe-per-active:{name}",
            number="3.13",
            sentence=f"The rank divided by the active experts works as well as {name} with as many parameters.",
            statistic=f"loss of per-active at rank {rank} minus that of {name} at rank {other.rank}, which has as many "
            "parameters, as a share of what FullFT learns",
            unit="share",
            high=0.02,
        ),
        lambda evidence: _matched(evidence, evidence.question.both, other),
    )


def _attention(evidence: Evidence[MoEQuestion]) -> Measure:
    question = evidence.question
    return _matched(evidence, question.attention(question.attention_rank), question.experts, fewer=True)


def _all(evidence: Evidence[MoEQuestion]) -> Measure:
    return _difference(evidence, evidence.question.experts, evidence.question.both)


def _regret(evidence: Evidence[MoEQuestion]) -> Measure:
    condition = evidence.conditions["main"]
    full = condition.best(FULL)
    if condition.learned_by_full() is None or full is None or full.loss is None:
        return Measure(None)
    regret = condition.difference(evidence.question.both.name, FULL)
    return Measure(None if regret is None else regret.over(full.loss.value))


def _undivided(evidence: Evidence[MoEQuestion]) -> Measure:
    return _difference(evidence, evidence.question.both, evidence.question.at_equal_rank()["full-rank-each"])


def _per_total(evidence: Evidence[MoEQuestion]) -> Measure:
    return _difference(evidence, evidence.question.at_equal_rank()["per-total"], evidence.question.both)


def _difference(evidence: Evidence[MoEQuestion], first: LoRA, second: LoRA) -> Measure:
    """Loss of the first minus that of the second, as a share of what FullFT learns."""
    condition = evidence.conditions["main"]
    learned = condition.learned_by_full()
    return Measure(None if learned is None else _share(condition, first, second, learned))


def _share(condition: Condition, first: LoRA, second: LoRA, learned: float) -> Estimate | None:
    found = condition.difference(first.name, second.name)
    return None if found is None else found.over(learned)


def _matched(evidence: Evidence[MoEQuestion], first: LoRA, second: LoRA, *, fewer: bool = False) -> Measure:
    """The difference of a pair that must have as many parameters; open when it has not, or has no result.

    With `fewer` it is enough that the first has no fewer.
    """
    condition = evidence.conditions["main"]
    learned = condition.learned_by_full()
    if learned is None:
        return Measure(None)
    own, other = parameters(condition, first), parameters(condition, second)
    if own is None or other is None:
        return Measure(None, f"{first.name} and {second.name} cannot be compared.")
    ratio = own / other
    share = _share(condition, first, second, learned)
    details = {f"{first.name} over {second.name}, parameters": ratio}
    if share is None or not (ratio < 1 - ALIKE or (ratio > 1 + ALIKE and not fewer)):
        return Measure(share, details=details)
    note = f"{first.name} has {ratio:.2f} times the parameters of {second.name}. Give other ranks for this base."
    return Measure(share.without("low", "high"), note, details)


def parameters(condition: Condition, method: LoRA) -> int | None:
    """Trainable parameters of a method, as a finished run counted them."""
    return next((trial.record.trainable_parameters for trial in condition.at_best(method.name)), None)
