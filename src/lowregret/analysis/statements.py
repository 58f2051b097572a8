"""The claims as they are stated before a run: the post's sentence, the statistic, and what would count as true.

A statistic and its threshold depend on the question alone. `study.json` keeps them from the moment a study starts.
"""

from __future__ import annotations

from typing import Literal

from lowregret.errors import SpecError
from lowregret.spec import Spec
from lowregret.spec.question import Question
from lowregret.spec.questions import EarlyQuestion, RankQuestion
from lowregret.spec.questions_moe import MoEQuestion
from lowregret.spec.questions_rl import RLQuestion

BITS_PER_PARAMETER = 2.0
"""What a parameter can store (SCIENCE.md 3.8)."""
Unit = Literal["ratio", "share", "nats", "bits", "number"]


class Statement(Spec):
    """A claim before its evidence."""

    key: str
    number: str
    """Section of SCIENCE.md."""
    sentence: str
    """What the post, or the work cited there, says."""
    statistic: str
    """What is measured here."""
    unit: Unit
    low: float | None = None
    high: float | None = None
    """The claim holds when the whole interval of the statistic lies within these bounds, and does not hold when it lies
    wholly outside. A bound of zero is itself outside."""

    @property
    def threshold(self) -> str:
        """The bounds in words."""
        if self.low is None:
            return f"at most {_said(self.high, self.unit)}" if self.high else "below 0"
        if self.high is None:
            return f"at least {_said(self.low, self.unit)}" if self.low else "above 0"
        return f"{_said(self.low, self.unit)} to {_said(self.high, self.unit)}"


def _said(value: float | None, unit: Unit) -> str:
    if value is None:
        return "anything"
    if unit == "share":
        return f"{100 * value:g} %"
    return f"{value:g}" + {"ratio": "×", "nats": " nats", "bits": " bits"}.get(unit, "")


def statements(question: Question) -> tuple[Statement, ...]:
    """The claims of a question, in the order of its page."""
    from lowregret.analysis import statements_moe

    kind = str(getattr(question, "kind", ""))
    if isinstance(question, MoEQuestion):
        return statements_moe.moe(question)
    if isinstance(question, RankQuestion):
        return _rank(question)
    if isinstance(question, EarlyQuestion):
        return _early(question)
    if isinstance(question, RLQuestion):
        return _rl(question)
    if kind not in _STATED:
        raise SpecError(f"the question {kind!r} states no claims. Valid: rank, early, moe, rl, {', '.join(_STATED)}.")
    return _STATED[kind]


def _rank(question: RankQuestion) -> tuple[Statement, ...]:
    top = max(question.ranks)
    return (
        Statement(
            key="rank-coincide",
            number="3.1",
            sentence="On small to medium data, high-rank LoRA and full fine-tuning end at the same loss.",
            statistic=f"regret of rank {top} as a share of the FullFT loss, at the data size where it is largest",
            unit="share",
            high=question.tolerance,
        ),
        Statement(
            key="rank-log-linear",
            number="3.1",
            sentence="The loss falls about linearly in the logarithm of the steps.",
            statistic=f"R² of held-out loss against log steps: FullFT and rank {top}, all sizes and seeds",
            unit="number",
            low=0.95,
        ),
        Statement(
            key="rank-departure",
            number="3.1",
            sentence="Low ranks leave the common curve at a step that grows with the rank.",
            statistic="slope of log2(step of departure) against log2(rank), ranks that leave, all sizes",
            unit="number",
            low=0.0,
        ),
        Statement(
            key="rank-no-floor",
            number="3.1",
            sentence="Beyond its capacity a low rank meets no floor: its loss goes on falling, only more slowly.",
            statistic=f"fall of the held-out loss of rank {min(question.ranks)} over the last doubling of the steps, "
            "largest data",
            unit="nats",
            low=0.0,
        ),
    )


def _rl(question: RLQuestion) -> tuple[Statement, ...]:
    rank, good = min(question.ranks), f"{100 * question.good:g} %"
    return (
        Statement(
            key="rl-rank-1",
            number="3.7",
            sentence=f"Trained by reward, LoRA ends where full fine-tuning does, down to rank {rank}.",
            statistic=f"held-out reward of FullFT minus that of rank {rank}, each at its best rate",
            unit="number",
            high=question.tolerance,
        ),
        Statement(
            key="rl-range",
            number="3.7",
            sentence="Trained by reward, LoRA has a wider range of good learning rates than full fine-tuning.",
            statistic=f"highest over lowest rate that gains {good} of what the best one gains over the base: LoRA's, "
            "geometric mean over ranks, over FullFT's",
            unit="ratio",
            low=1.0,
        ),
        Statement(
            key="rl-bits",
            number="3.8",
            sentence=f"An episode teaches a bit at most, so that rank {rank} has room for all that a run can teach.",
            statistic=f"entropy of the groups' rewards, summed over a run of rank {rank} at its best rate, as a share "
            f"of {BITS_PER_PARAMETER:g} bits for each parameter of the adapter",
            unit="share",
            high=1.0,
        ),
    )


def _early(question: EarlyQuestion) -> tuple[Statement, ...]:
    step = question.early_steps
    return (
        Statement(
            key="early-same",
            number="3.4",
            sentence="At one learning rate, the curves of all ranks are the same at first.",
            statistic=f"spread of the loss over ranks after {step} steps, as a share of what was learned by then",
            unit="share",
            high=0.05,
        ),
        Statement(
            key="early-grow",
            number="3.4",
            sentence="The differences between ranks are tiny, then grow.",
            statistic=f"spread of the held-out loss over ranks after {question.steps} steps over that after {step}",
            unit="ratio",
            low=2.0,
        ),
    )


_STATED: dict[str, tuple[Statement, ...]] = {
    "learning-rate": (
        Statement(
            key="rate-ratio",
            number="3.2",
            sentence="LoRA's best learning rate is about ten times that of full fine-tuning.",
            statistic="LoRA's fitted best rate over FullFT's, geometric mean over ranks from 4 up",
            unit="ratio",
            low=5.0,
            high=20.0,
        ),
        Statement(
            key="rate-drift",
            number="3.2",
            sentence="The best learning rate moves by less than a factor of 2 between ranks, from rank 4 up.",
            statistic="largest fitted best rate over the smallest, ranks from 4 up",
            unit="ratio",
            high=2.0,
        ),
        Statement(
            key="rate-rank-1",
            number="3.2",
            sentence="Rank 1 has a lower best learning rate than the other ranks.",
            statistic="fitted best rate of rank 1 over the geometric mean of those from rank 4 up",
            unit="ratio",
            high=1.0,
        ),
    ),
    "short-runs": (
        Statement(
            key="short-ratio",
            number="3.3",
            sentence="In runs of about 100 steps, LoRA's best learning rate is about fifteen times that of FullFT.",
            statistic="LoRA's fitted best rate over FullFT's at the length nearest to 100 steps",
            unit="ratio",
            low=10.0,
            high=22.5,
        ),
        Statement(
            key="short-falls",
            number="3.3",
            sentence="The ratio of best learning rates falls with the length of the run.",
            statistic="slope of log2(ratio) against log2(steps)",
            unit="number",
            high=0.0,
        ),
    ),
    "batch-size": (
        Statement(
            key="batch-gap",
            number="3.5",
            sentence="As the batch grows, LoRA pays a larger penalty than full fine-tuning.",
            statistic="slope of LoRA's loss minus FullFT's per doubling of the batch, mean over ranks",
            unit="nats",
            low=0.0,
        ),
        Statement(
            key="batch-rank-free",
            number="3.5",
            sentence="That penalty does not depend on the rank.",
            statistic="slope of the highest rank's loss minus the lowest's per doubling, over FullFT's slope",
            unit="share",
            low=-0.25,
            high=0.25,
        ),
        Statement(
            key="batch-small",
            number="3.5",
            sentence="Both methods do best at small batches.",
            statistic="slope of the loss per doubling of the batch, of the method where it is least",
            unit="nats",
            low=0.0,
        ),
    ),
    "layers": (
        Statement(
            key="layers-attention",
            number="3.6",
            sentence="Attention alone is clearly worse than the MLP alone, even with no fewer parameters.",
            statistic="loss of attention at twice the rank minus the MLP's, as a share of what FullFT learns; the "
            "rank where it is least",
            unit="share",
            low=0.01,
        ),
        Statement(
            key="layers-all",
            number="3.6",
            sentence="Adding attention to the MLP gives little.",
            statistic="loss of the MLP alone minus that of both, as a share of what FullFT learns; where it is most",
            unit="share",
            high=0.05,
        ),
    ),
    "capacity": (
        Statement(
            key="capacity-bits",
            number="3.8",
            sentence="About two bits can be stored in a parameter.",
            statistic="bits of facts stored per trainable parameter, at the rank where it is most",
            unit="bits",
            low=1.0,
            high=3.0,
        ),
        Statement(
            key="capacity-rank",
            number="3.8",
            sentence="What an adapter stores grows with its rank until the facts are all there.",
            statistic="slope of log2(bits stored) against log2(rank), ranks that store less than 90 % of the facts",
            unit="number",
            low=0.0,
        ),
        Statement(
            key="capacity-teach",
            number="5",
            sentence="Where training teaches new facts, the excess description length per token rises with the data.",
            statistic="slope of EDL per token against the logarithm of the tokens, facts",
            unit="bits",
            low=0.0,
        ),
        Statement(
            key="capacity-elicit",
            number="5",
            sentence="Where training elicits what the base knows, the excess description length per token falls.",
            statistic="slope of EDL per token against the logarithm of the tokens, known data",
            unit="bits",
            high=0.0,
        ),
    ),
    "compute": (
        Statement(
            key="compute-share",
            number="3.9",
            sentence="A LoRA step of low rank costs slightly more than two thirds of a full fine-tuning step.",
            statistic="time of a step at the lowest rank over FullFT's, widest base",
            unit="ratio",
            low=0.6,
            high=0.8,
        ),
        Statement(
            key="compute-theory",
            number="3.9",
            sentence="The cost of a step follows from counting multiplications.",
            statistic="largest deviation of the time ratio from theory, as a share of it, widest base, ranks below "
            "hidden / 6",
            unit="share",
            high=0.15,
        ),
        Statement(
            key="compute-memory",
            number="3.9",
            sentence="LoRA needs less memory than full fine-tuning.",
            statistic="weights, gradients and moments at the lowest rank over FullFT's, widest base",
            unit="ratio",
            high=0.5,
        ),
    ),
    "invariance": (
        Statement(
            key="invariance-same",
            number="3.10",
            sentence="Alpha, init and learning rates transformed by (p, q) leave a training unchanged.",
            statistic="largest distance of a transformed run's training loss from the plain run's, as a share of what "
            "it learned",
            unit="share",
            high=0.01,
        ),
        Statement(
            key="invariance-moved",
            number="3.10",
            sentence="There are two effective degrees of freedom: changing either one changes the training.",
            statistic="least distance among the runs that differ in one of the two invariants, over the largest among "
            "those that differ in none",
            unit="ratio",
            low=10.0,
        ),
    ),
    "variants": (
        Statement(
            key="variants-close",
            number="5",
            sentence="Tuned alike, the variants of LoRA end within 2 % of plain LoRA.",
            statistic="largest distance of a variant's held-out loss from plain LoRA's, as a share of the latter",
            unit="share",
            high=0.02,
        ),
        Statement(
            key="variants-pissa",
            number="5",
            sentence="PiSSA needs a smaller learning rate than plain LoRA.",
            statistic="fitted best rate of PiSSA over that of plain LoRA",
            unit="ratio",
            high=1.0,
        ),
        Statement(
            key="variants-forget",
            number="5",
            sentence="LoRA forgets less than full fine-tuning.",
            statistic="loss on held-out text of the base after FullFT minus that after plain LoRA",
            unit="nats",
            low=0.0,
        ),
    ),
    "scaling": (
        Statement(
            key="scaling-ratio",
            number="3.11",
            sentence="The ratio of best learning rates is the same for all sizes of the base.",
            statistic="slope of log2(LoRA's best rate over FullFT's) per doubling of the hidden size",
            unit="number",
            low=-0.25,
            high=0.25,
        ),
        Statement(
            key="scaling-regret",
            number="3.1",
            sentence="The regret of high-rank LoRA falls as the base grows.",
            statistic="slope of the highest rank's regret, a share of the FullFT loss, per doubling of the width",
            unit="share",
            high=0.0,
        ),
    ),
}
