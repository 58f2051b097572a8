"""The page of a compare whose objective is a loss."""

from __future__ import annotations

from lowregret.report.charts import compare, curves
from lowregret.report.charts.drawing import Figure
from lowregret.report.charts.lag import lag_chart
from lowregret.report.charts.rates import loss_against_learning_rate
from lowregret.report.pages import captions
from lowregret.report.pages.document import document, figure, joined
from lowregret.report.pages.replies import replies
from lowregret.report.pages.verdict import head, tail
from lowregret.report.reading import StudyRecords


def page(study: StudyRecords) -> str:
    """The whole page."""
    first, *others = (figure(one.key, one.title, one.chart.to_dict(), one.caption) for one in _figures(study))
    body = [head(study), first, replies(study.folder, study.label), *others, tail(study)]
    return document(captions.plain(study), study.version, joined(body))


def _figures(study: StudyRecords) -> list[Figure]:
    window = max((curves.curve(study, name).window for name in study.methods), default=1)
    return [
        Figure("regret", "Regret", compare.regret_chart(study), captions.regret_caption(study)),
        Figure("lag", "The regret in steps", lag_chart(study), captions.lag_caption(study)),
        Figure("rates", "Loss against learning rate", loss_against_learning_rate(study), captions.rate_caption(study)),
        Figure("steps", "Loss against steps", compare.loss_against_steps(study), captions.steps_caption(study, window)),
        Figure("cost", "Cost", compare.cost(study), captions.cost_caption(study)),
    ]
