"""The claims about mixtures of experts, as they are stated before a run."""

from __future__ import annotations

from lowregret.analysis.statements import Statement
from lowregret.spec.questions_moe import MoEQuestion


def moe(question: MoEQuestion) -> tuple[Statement, ...]:
    """SCIENCE.md 3.6, 3.1, 3.13 and 4; the bounds are those of the same claims on dense bases where there are such."""
    rank = question.rank
    return (
        Statement(
            key="moe-attention",
            number="3.6",
            sentence="On a sparse base, attention alone is clearly worse than the experts alone, even with no fewer "
            "parameters.",
            statistic=f"loss of attention at rank {question.attention_rank} minus that of the experts at rank {rank}, "
            "as a share of what FullFT learns",
            unit="share",
            low=0.01,
        ),
        Statement(
            key="moe-all",
            number="3.6",
            sentence="On a sparse base, adding attention to the experts gives little.",
            statistic=f"loss of the experts alone minus that of both, rank {rank}, as a share of what FullFT learns",
            unit="share",
            high=0.05,
        ),
        Statement(
            key="moe-regret",
            number="3.1",
            sentence="On a sparse base, LoRA on attention and experts ends at the loss of full fine-tuning.",
            statistic=f"regret of rank {rank}, divided by the active experts, as a share of the FullFT loss",
            unit="share",
            high=question.tolerance,
        ),
        Statement(
            key="moe-per-active",
            number="3.13",
            sentence="The rank divided by the active experts works as well as any other division of as many "
            "parameters.",
            statistic=f"loss of per-active at rank {rank} minus that of another convention with as many parameters, "
            "as a share of what FullFT learns; where it is most",
            unit="share",
            high=0.02,
        ),
        Statement(
            key="moe-undivided",
            number="3.13",
            sentence="Giving every expert the whole rank gains little over dividing it by the active experts.",
            statistic=f"loss of per-active minus that of full-rank-each, both at rank {rank}, as a share of what "
            "FullFT learns",
            unit="share",
            high=0.05,
        ),
        Statement(
            key="moe-per-total",
            number="4",
            sentence="At the same rank, dividing it by all experts is worse than by the active ones.",
            statistic=f"loss of per-total minus that of per-active, both at rank {rank}, as a share of what FullFT "
            "learns",
            unit="share",
            low=0.01,
        ),
    )
