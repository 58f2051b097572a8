"""The figures about which matrices to adapt."""

from __future__ import annotations

from lowregret.analysis.condition import FULL
from lowregret.questions.claim import Evidence
from lowregret.questions.layers.spec import LayersQuestion
from lowregret.report.charts.drawing import Figure
from lowregret.report.charts.plots import Axis, Reference, Series, curves, forest
from lowregret.report.charts.ranks import FULL_NAME, NATS
from lowregret.report.charts.words import label
from lowregret.spec import LoRA
from lowregret.spec.method import spell_targets


def figures(evidence: Evidence[LayersQuestion]) -> list[Figure]:
    condition = evidence.conditions["main"]
    rows, by_target = [], dict[str, list[tuple[float, float, float | None, float | None]]]()
    for method in condition.methods:
        best, trials = condition.best(method.name), condition.at_best(method.name)
        if best is None or best.loss is None or not trials:
            continue
        rows.append((label(method), best.loss.value, best.loss.low, best.loss.high))
        if isinstance(method, LoRA):
            size = float(trials[0].record.trainable_parameters)
            by_target.setdefault(_where(method), []).append((size, best.loss.value, best.loss.low, best.loss.high))
    series = []
    for index, (target, found) in enumerate(by_target.items()):
        points = sorted((size, loss) for size, loss, _, _ in found)
        bars = [(s, low, high) for s, _, low, high in found if low is not None and high is not None]
        series.append(Series(target, points, index / max(len(by_target) - 1, 1), bars, dots=True))
    full = condition.best(FULL)
    lines = [Reference(full.loss.value, FULL_NAME)] if full is not None and full.loss is not None else []
    chart = curves(
        series,
        Axis("trainable parameters", log=True, format="~s"),
        NATS,
        "Held-out loss against trainable parameters, a line for each choice of matrices",
        references=lines,
    )
    caption = (
        "Each choice of matrices at its own best learning rates, mean over seeds with its 95 % interval, against its "
        "size: of two points one above the other, the lower one makes more of the same number of parameters. The post "
        "has attention alone clearly above the MLP alone, and adding attention to the MLP change little."
    )
    bars_chart = forest(rows, NATS.title, "Held-out loss of each choice of matrices")
    return [
        Figure("layers-parameters", "Which matrices, at matched parameters", chart, caption),
        Figure(
            "layers-losses",
            "Every choice",
            bars_chart,
            "The same losses one by one, full fine-tuning last: overlapping intervals are not told apart here.",
        ),
    ]


def _where(lora: LoRA) -> str:
    """Short enough for the end of a curve."""
    return spell_targets(lora.targets).replace("+", " + ")
