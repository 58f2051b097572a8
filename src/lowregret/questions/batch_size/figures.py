"""The figures about the batch."""

from __future__ import annotations

from lowregret.analysis.condition import FULL
from lowregret.analysis.envelope import plain_loras
from lowregret.questions.batch_size.spec import BatchSizeQuestion
from lowregret.questions.claim import Evidence
from lowregret.report.charts.drawing import Figure
from lowregret.report.charts.plots import Axis, Reference, Series, curves
from lowregret.report.charts.ranks import NATS, named, shade
from lowregret.spec import LoRA


def figures(evidence: Evidence[BatchSizeQuestion]) -> list[Figure]:
    question = evidence.question
    conditions = list(evidence.conditions.values())
    loras, gaps, series = plain_loras(conditions[0]), [], []
    for method in conditions[0].methods:
        points, bars, apart = [], [], []
        for condition in conditions:
            best, batch = condition.best(method.name), float(condition.spec.batch_size)
            if best is None or best.loss is None:
                continue
            points.append((batch, best.loss.value))
            if best.loss.low is not None and best.loss.high is not None:
                bars.append((batch, best.loss.low, best.loss.high))
            gap = condition.difference(method.name, FULL)
            if gap is not None:
                apart.append((batch, gap.value, gap))
        dashed = not isinstance(method, LoRA)
        series.append(Series(named(method), points, shade(method, loras), bars, dashed=dashed, dots=True))
        if isinstance(method, LoRA):
            whiskers = [(b, g.low, g.high) for b, _, g in apart if g.low is not None and g.high is not None]
            gaps.append(Series(named(method), [(b, v) for b, v, _ in apart], shade(method, loras), whiskers, dots=True))
    batches = Axis("batch size", log=True, ticks=[float(batch) for batch in question.batches])
    loss = curves(series, batches, NATS, "Final held-out loss against batch size")
    gap_chart = curves(
        gaps,
        batches,
        Axis("loss of LoRA − of FullFT (nats)"),
        "Gap between LoRA and FullFT against batch size",
        references=[Reference(0.0, "zero: as good as FullFT")],
    )
    return [
        Figure(
            "batch-size-loss",
            "Final loss against batch size",
            loss,
            f"Every run sees {question.examples:,} examples, at each batch with its own best learning rate; mean over "
            "seeds with its 95 % interval. The post has both methods do best at small batches.",
        ),
        Figure(
            "batch-size-gap",
            "What a large batch costs LoRA more than FullFT",
            gap_chart,
            "Held-out loss of LoRA minus that of full fine-tuning, paired examples and seeds. The post has it grow "
            "with the batch in some settings, equally for all ranks: lines that rise together.",
        ),
    ]
