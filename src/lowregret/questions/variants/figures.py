"""The figures about the variants of LoRA."""

from __future__ import annotations

from lowregret.analysis.condition import FULL
from lowregret.analysis.fits import mean
from lowregret.questions.claim import Evidence
from lowregret.questions.variants.claims import forgetting
from lowregret.questions.variants.spec import VariantsQuestion
from lowregret.report.charts import words
from lowregret.report.charts.drawing import Figure
from lowregret.report.charts.plots import forest
from lowregret.report.charts.ranks import FULL_NAME
from lowregret.report.charts.words import label
from lowregret.spec import Method


def figures(evidence: Evidence[VariantsQuestion]) -> list[Figure]:
    condition, question = evidence.conditions["main"], evidence.question
    plain = question.methods[0].name
    rows: list[tuple[str, float | None, float | None, float | None]] = []
    forgot: list[tuple[str, float | None, float | None, float | None]] = []
    for method in condition.methods:
        name = _variant(method)
        found = condition.difference(method.name, plain) if method.name not in (plain, FULL) else None
        if method.name not in (plain, FULL):
            rows.append((name, None, None, None) if found is None else (name, found.value, found.low, found.high))
        rise = mean(list(forgetting(condition, method.name).values()))
        forgot.append((name, None, None, None) if rise is None else (name, rise.value, rise.low, rise.high))
    full = condition.difference(FULL, plain)
    apart = "" if full is None else f" Full fine-tuning ends {words.signed(full.value)} nats from it."
    return [
        Figure(
            "variants-loss",
            "Variants against plain LoRA",
            forest(
                rows,
                "held-out loss − plain LoRA's (nats a token)",
                "Difference of each variant from plain LoRA",
                zero="plain LoRA",
            ),
            "Each at its own best learning rate and the same budget, paired examples and seeds, 95 % interval. Left of "
            f"zero is better than plain LoRA.{apart}",
        ),
        Figure(
            "variants-forgetting",
            "What each one forgets",
            forest(
                forgot,
                "rise of the base's own loss (nats a token)",
                "Forgetting of each method",
                zero="nothing forgotten",
            ),
            "Loss on held-out text of what the base was trained on, after minus before, each at its best rate.",
        ),
    ]


def _variant(method: Method) -> str:
    """What distinguishes it from plain LoRA, without the rank that all have."""
    changes = label(method).removesuffix(")").partition(", ")[2]
    return FULL_NAME if method.name == FULL else changes or "plain LoRA"
