"""The figure about short runs."""

from __future__ import annotations

from lowregret.analysis.envelope import plain_loras
from lowregret.analysis.place import mean_factor
from lowregret.analysis.rates import log_ratios
from lowregret.questions.claim import Evidence
from lowregret.questions.short_runs.spec import ShortRunsQuestion
from lowregret.report.charts.drawing import Figure
from lowregret.report.charts.plots import Axis, Reference, Series, curves
from lowregret.report.charts.ranks import named, shade


def figures(evidence: Evidence[ShortRunsQuestion]) -> list[Figure]:
    condition, question = evidence.conditions["main"], evidence.question
    loras = plain_loras(condition)
    series = []
    for lora in loras:
        points, bars = [], []
        for step in question.lengths:
            by_seed, _ = log_ratios(condition, [lora.name], step)
            ratio = mean_factor(list(by_seed.values()))
            if ratio is None:
                continue
            points.append((float(step), ratio.value))
            if ratio.low is not None and ratio.high is not None:
                bars.append((float(step), max(ratio.low, ratio.value / 4), min(ratio.high, 4 * ratio.value)))
        series.append(Series(named(lora), points, shade(lora, loras), bars, dots=True))
    chart = curves(
        series,
        Axis("length of the run in steps", log=True, ticks=[float(step) for step in question.lengths]),
        Axis("best rate of LoRA / of FullFT", log=True, ticks=[0.5, 1, 2, 5, 10, 15, 20, 50]),
        "Ratio of best learning rates against the length of the run",
        references=[Reference(10.0, "the post, long runs: 10×"), Reference(15.0, "the post, about 100 steps: 15×")],
    )
    caption = (
        "How many times larger LoRA's best learning rate is than that of full fine-tuning, by the length of the run, "
        "with the 95 % interval over seeds (cut at a factor of 4). The post has it fall from 15 towards 10."
    )
    return [Figure("short-runs-ratio", "The ratio of best rates in short runs", chart, caption)]
