"""What the post says of the matrices to adapt (SCIENCE 3.6), each statement beside what measures it. Torch-free."""

from __future__ import annotations

from lowregret.questions.claim import Evidence, Measure, Stated, Statement
from lowregret.questions.layers.spec import LayersQuestion
from lowregret.spec import LoRA
from lowregret.spec.method import LINEAR_TARGETS


def claims(question: LayersQuestion) -> tuple[Stated[LayersQuestion], ...]:
    return tuple(stated for rank in question.ranks for stated in _of_rank(rank))


def _of_rank(rank: int) -> tuple[Stated[LayersQuestion], ...]:
    return (
        Stated(
            Statement(
                key=f"layers-attention:{rank}",
                number="3.6",
                sentence=f"Attention alone is clearly worse than the MLP alone at rank {rank}, even with no fewer "
                "parameters.",
                statistic=f"loss of attention at rank {2 * rank} minus that of the MLP at rank {rank}, as a share of "
                "what FullFT learns",
                unit="share",
                low=0.01,
            ),
            lambda evidence: _share(evidence, LoRA(rank=2 * rank, targets=("attention",)), _mlp(rank)),
        ),
        Stated(
            Statement(
                key=f"layers-all:{rank}",
                number="3.6",
                sentence=f"Adding attention to the MLP gives little at rank {rank}.",
                statistic=f"loss of the MLP alone minus that of both, rank {rank}, as a share of what FullFT learns",
                unit="share",
                high=0.05,
            ),
            lambda evidence: _share(evidence, _mlp(rank), LoRA(rank=rank, targets=LINEAR_TARGETS)),
        ),
    )


def _mlp(rank: int) -> LoRA:
    return LoRA(rank=rank, targets=("mlp",))


def _share(evidence: Evidence[LayersQuestion], first: LoRA, second: LoRA) -> Measure:
    """How much worse the first is, over what FullFT learns."""
    condition = evidence.conditions["main"]
    learned, found = condition.learned_by_full(), condition.difference(first.name, second.name)
    return Measure(None if learned is None or found is None else found.over(learned))
