"""The figures about mixtures of experts."""

from __future__ import annotations

from collections.abc import Sequence

from lowregret.analysis.condition import FULL, Condition
from lowregret.questions.claim import Evidence
from lowregret.questions.moe.claims import parameters
from lowregret.questions.moe.spec import MoEQuestion
from lowregret.report.charts.drawing import Figure
from lowregret.report.charts.plots import Axis, Reference, Series, curves, forest
from lowregret.report.charts.ranks import FULL_NAME, NATS
from lowregret.spec import LoRA
from lowregret.spec.conventions import CONVENTIONS, DEFAULT_CONVENTION


def figures(evidence: Evidence[MoEQuestion]) -> list[Figure]:
    condition, question = evidence.conditions["main"], evidence.question
    equal, matched = question.at_equal_rank(), question.at_equal_parameters()
    lines: dict[str, Sequence[LoRA]] = {
        "attention": (question.attention(question.rank), question.attention(question.attention_rank)),
        "experts": (question.experts,),
        f"both, {DEFAULT_CONVENTION}": (question.both,),
        **{f"both, {name}": (equal[name], matched[name]) for name in CONVENTIONS if name in equal},
    }
    series = [
        _line(condition, name, methods, index / (len(lines) - 1)) for index, (name, methods) in enumerate(lines.items())
    ]
    full = condition.best(FULL)
    chart = curves(
        series,
        Axis("trainable parameters", log=True, format="~s"),
        NATS,
        "Held-out loss against trainable parameters, a line for each place of the adapter and convention of the rank",
        references=[Reference(full.loss.value, FULL_NAME)] if full is not None and full.loss is not None else [],
    )
    rows = []
    for name, methods in lines.items():
        for method in methods:
            found = condition.difference(method.name, FULL)
            said = f"{name}, rank {method.rank}"
            rows.append((said, None, None, None) if found is None else (said, found.value, found.low, found.high))
    return [
        Figure(
            "moe-parameters",
            "Attention, experts, both, and the four conventions",
            chart,
            "Each at its own best learning rate, mean over seeds with its 95 % interval, against its size. A "
            f"convention has a point at rank {question.rank}, of whatever size that is there, and one as large as "
            f"{DEFAULT_CONVENTION} at rank {question.rank}. The post has attention alone clearly above the "
            "experts alone, and adding attention change little.",
        ),
        Figure(
            "moe-regret",
            "Every choice against full fine-tuning",
            forest(
                rows,
                "held-out loss minus that of full fine-tuning (nats per supervised token)",
                "Regret of each place of the adapter and convention of the rank",
                zero=FULL_NAME,
            ),
            "Paired examples and seeds, 95 % interval: overlapping intervals are not told apart here. On full "
            "fine-tuning or left of it nothing is lost.",
        ),
    ]


def _line(condition: Condition, name: str, methods: Sequence[LoRA], place: float) -> Series:
    points, bars = [], []
    for method in methods:
        best, size = condition.best(method.name), parameters(condition, method)
        if best is None or best.loss is None or size is None:
            continue
        points.append((float(size), best.loss.value))
        if best.loss.low is not None and best.loss.high is not None:
            bars.append((float(size), best.loss.low, best.loss.high))
    return Series(name, sorted(points), place, bars, dots=True)
