"""The figure about the best learning rate."""

from __future__ import annotations

from lowregret.questions.claim import Evidence
from lowregret.questions.learning_rate.spec import LearningRateQuestion
from lowregret.report.charts.drawing import Figure
from lowregret.report.charts.ranks import u_curves


def figures(evidence: Evidence[LearningRateQuestion]) -> list[Figure]:
    return [u_curves(evidence.conditions["main"], "learning-rate", "main")]
