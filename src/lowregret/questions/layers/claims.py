"""What the post says of the matrices to adapt (SCIENCE 3.6), each statement beside what measures it. Torch-free."""

from __future__ import annotations

from lowregret.analysis.fits import Estimate
from lowregret.questions.claim import Evidence, Measure, Stated, Statement
from lowregret.questions.layers.spec import LayersQuestion
from lowregret.spec import LoRA
from lowregret.spec.method import LINEAR_TARGETS


def claims(question: LayersQuestion) -> tuple[Stated[LayersQuestion], ...]:
    return (
        Stated(
            Statement(
                key="layers-attention",
                number="3.6",
                sentence="Attention alone is clearly worse than the MLP alone, even with no fewer parameters.",
                statistic="loss of attention at twice the rank minus the MLP's, as a share of what FullFT learns; the "
                "rank where it is least",
                unit="share",
                low=0.01,
            ),
            _attention,
        ),
        Stated(
            Statement(
                key="layers-all",
                number="3.6",
                sentence="Adding attention to the MLP gives little.",
                statistic="loss of the MLP alone minus that of both, as a share of what FullFT learns; where it is "
                "most",
                unit="share",
                high=0.05,
            ),
            _all,
        ),
    )


def _attention(evidence: Evidence[LayersQuestion]) -> Measure:
    found = _shares(evidence)
    worse = [share for name, share in found.items() if name.startswith("attention")]
    return Measure(min(worse, key=_value, default=None), details={name: share.value for name, share in found.items()})


def _all(evidence: Evidence[LayersQuestion]) -> Measure:
    found = _shares(evidence)
    gains = [share for name, share in found.items() if name.startswith("mlp")]
    return Measure(max(gains, key=_value, default=None), details={name: share.value for name, share in found.items()})


def _shares(evidence: Evidence[LayersQuestion]) -> dict[str, Estimate]:
    """`attention … over mlp …` and `mlp … over both …` at each rank → how much worse, over what FullFT learns."""
    condition = evidence.conditions["main"]
    learned = condition.learned_by_full()
    found: dict[str, Estimate] = {}
    if learned is None:
        return found
    for rank in evidence.question.ranks:
        mlp = LoRA(rank=rank, targets=("mlp",)).name
        others = LoRA(rank=2 * rank, targets=("attention",)).name, LoRA(rank=rank, targets=LINEAR_TARGETS).name
        worse, gain = condition.difference(others[0], mlp), condition.difference(mlp, others[1])
        if worse is not None:
            found[f"attention {2 * rank} over mlp {rank}"] = worse.over(learned)
        if gain is not None:
            found[f"mlp {rank} over both {rank}"] = gain.over(learned)
    return found


def _value(found: Estimate) -> float:
    return found.value
