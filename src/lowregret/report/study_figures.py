"""A study's figures in the post's own form: curves, rates, batches. `adapter_figures` has those about adapters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lowregret.analysis.envelope import MARGIN, common_curve, departure, envelope, plain_loras
from lowregret.analysis.evidence import FULL, Condition, Evidence
from lowregret.analysis.fits import Estimate, exponential, mean
from lowregret.analysis.learning_rate import SEARCH_SEED
from lowregret.analysis.measures import log_ratios, spread_over_ranks
from lowregret.report.drawing import Chart
from lowregret.report.plots import Axis, Reference, Series, curves
from lowregret.spec import LoRA, Method
from lowregret.spec.questions import BatchSizeQuestion, ShortRunsQuestion

STEPS = Axis("optimizer steps", log=True)
NATS = Axis("held-out loss (nats per supervised token)")
FULL_NAME = "FullFT"


@dataclass(frozen=True)
class Figure:
    """One picture and what to see in it."""

    key: str
    title: str
    chart: Chart
    caption: str


def figures(evidence: Evidence) -> list[Figure]:
    """The figures of a study, most important first."""
    from lowregret.report import adapter_figures as more
    from lowregret.report import moe_figures, rl_figures

    by_kind: Mapping[str, Callable[[Evidence], list[Figure]]] = {
        "rank": _rank,
        "learning-rate": _learning_rate,
        "short-runs": _short_runs,
        "early": _early,
        "batch-size": _batch_size,
        "layers": more.layers,
        "capacity": more.capacity,
        "compute": more.compute,
        "invariance": more.invariance,
        "variants": more.variants,
        "scaling": more.scaling,
        "moe": moe_figures.moe,
        "rl": rl_figures.study,
    }
    return by_kind[evidence.kind](evidence)


def shade(method: Method, loras: Sequence[LoRA]) -> float | None:
    """A LoRA's place on the ramp, by the logarithm of its rank; None for FullFT."""
    if not isinstance(method, LoRA):
        return None
    ranks = [lora.rank for lora in loras]
    low, high = math.log2(min(ranks)), math.log2(max(ranks))
    return 0.5 if high == low else (math.log2(method.rank) - low) / (high - low)


def named(method: Method) -> str:
    """Short enough for the end of a curve."""
    return f"rank {method.rank}" if isinstance(method, LoRA) else FULL_NAME


def _rank(evidence: Evidence) -> list[Figure]:
    found = []
    departures: list[Series] = []
    conditions = list(evidence.conditions.values())
    for index, condition in enumerate(conditions):
        loras, common = plain_loras(condition), common_curve(condition)
        series, rings, left = [], [], []
        for method in condition.methods:
            curve = envelope(condition, method.name)
            if not curve:
                continue
            dashed = not isinstance(method, LoRA)
            series.append(Series(named(method), list(curve.items()), shade(method, loras), dashed=dashed))
            step = departure(curve, common, condition.base_nll) if isinstance(method, LoRA) else None
            if step is not None and isinstance(method, LoRA):
                rings.append((step, _between(curve, step), f"{named(method)} leaves after {step:.3g} steps"))
                left.append((float(method.rank), step))
        part = index / max(len(conditions) - 1, 1)
        departures.append(Series(condition.name.replace("-", " "), left, part, dots=True))
        size = condition.name.replace("-", " ")
        chart = curves(series, STEPS, NATS, f"Held-out loss against steps by rank, {size}", marks=rings)
        caption = (
            f"Data {size}. For each rank the lowest held-out loss of any learning rate after so many steps. Where a "
            "curve lies on that of full fine-tuning (dashed) the rank is enough; a ring marks the step from which a "
            f"rank is behind the highest one by more than {MARGIN * 100:.0f} % of what had been learned."
        )
        found.append(Figure(f"rank-{condition.name}", f"Loss by rank, {size}", chart, caption))
    asked = [float(lora.rank) for lora in plain_loras(conditions[0])]
    ranks = Axis("rank", log=True, ticks=asked, low=min(asked), high=max(asked))
    ends = Axis("step of departure", log=True, low=1.0, high=float(max(c.steps for c in conditions)))
    chart = curves(departures, ranks, ends, "Step at which each rank leaves the common curve")
    caption = (
        "When capacity runs out: the step at which each rank leaves the common curve, a line a data size. The post has "
        "it rise with the rank. A rank without a point stays with the common curve to the end."
    )
    found.append(Figure("rank-departure", "Where ranks leave the common curve", chart, caption))
    return found


def _between(curve: Mapping[int, float], step: float) -> float:
    """A curve's height at a step between two evaluations, linear in the logarithm of the step."""
    steps = sorted(curve)
    above = next((s for s in steps if s >= step), steps[-1])
    below = max((s for s in steps if s <= step), default=above)
    if above == below:
        return curve[above]
    share = math.log(step / below) / math.log(above / below)
    return curve[below] * (1 - share) + curve[above] * share


def _learning_rate(evidence: Evidence) -> list[Figure]:
    return [u_curves(evidence.conditions["main"], "learning-rate", "main")]


def u_curves(condition: Condition, key: str, name: str) -> Figure:
    """Held-out loss against learning rate, with the fitted best rate of each method."""
    loras = plain_loras(condition)
    series, rings, said = [], [], []
    losses: list[float] = []
    for method in condition.methods:
        points = [
            (run.record.learning_rate, run.loss())
            for run in condition.of(method.name, SEARCH_SEED)
            if math.isfinite(run.loss())
        ]
        losses += [loss for _, loss in points]
        dashed = not isinstance(method, LoRA)
        series.append(Series(named(method), points, shade(method, loras), dashed=dashed, dots=True))
        best = condition.best(method.name)
        if best is None or best.fitted_rate is None or best.loss is None:
            continue
        rate, depth = best.fitted_rate, best.depth.get(SEARCH_SEED, best.loss.value)
        place = 2.0 ** best.fitted.get(SEARCH_SEED, math.log2(rate.value))
        rings.append((place, depth, f"{named(method)}: best at {place:.3g} with seed {SEARCH_SEED}"))
        said.append(f"{named(method)} {_rate(rate)}")
    chart = curves(
        series,
        Axis("learning rate", log=True, format="~e"),
        Axis(NATS.title, high=_top(losses)),
        "Held-out loss against learning rate",
        marks=rings,
    )
    caption = (
        f"Best rates by a parabola through the best of the lattice and its neighbours: {'; '.join(said)}. A ring is "
        "the bottom of each parabola. LoRA's curves stand right of that of full fine-tuning; how far is the ratio."
    )
    return Figure(f"{key}-{name}", "Loss against learning rate", chart, caption)


def _top(losses: Sequence[float]) -> float | None:
    """The highest loss worth its space: far worse ones would flatten the differences that matter."""
    if not losses:
        return None
    low, ordered = min(losses), sorted(losses)
    return min(max(losses), low + max(3 * (ordered[len(ordered) // 2] - low), 0.05 * abs(low)))


def _rate(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return f"{found.value:.2g}"
    return f"{found.value:.2g} ({found.low:.2g} to {found.high:.2g})"


def _short_runs(evidence: Evidence) -> list[Figure]:
    condition, question = evidence.conditions["main"], evidence.question
    assert isinstance(question, ShortRunsQuestion)
    loras = plain_loras(condition)
    series = []
    for lora in loras:
        points, bars = [], []
        for step in question.lengths:
            by_seed, _ = log_ratios(condition, [lora.name], step)
            ratio = exponential(mean(list(by_seed.values())))
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


def _early(evidence: Evidence) -> list[Figure]:
    condition = evidence.conditions["main"]
    loras = plain_loras(condition)
    series = []
    for lora in loras:
        runs = condition.of(lora.name)
        steps = sorted(set.intersection(*(set(run.test) for run in runs))) if runs else []
        points = [(float(step), sum(run.test[step] for run in runs) / len(runs)) for step in steps]
        series.append(Series(named(lora), points, shade(lora, loras)))
    rate = condition.spec.learning_rates[0]
    first = curves(series, STEPS, NATS, "Held-out loss in the first steps, by rank, at one learning rate")
    spreads = spread_over_ranks(condition)
    lines = [
        Series(f"seed {seed}", [(float(s), spread) for s, (spread, _) in curve.items() if spread > 0], 0.15 + 0.35 * i)
        for i, (seed, curve) in enumerate(spreads.items())
    ]
    second = curves(
        lines[:3], STEPS, Axis("spread over ranks (nats)", log=True), "Spread of the loss over ranks against steps"
    )
    return [
        Figure(
            "early-curves",
            "The first steps, by rank",
            first,
            f"All ranks at the learning rate {rate:.3g}, mean over seeds. The post has the curves of all ranks "
            "coincide at first, because of the factor 1/r.",
        ),
        Figure(
            "early-spread",
            "How far the ranks are apart",
            second,
            "Highest minus lowest held-out loss over ranks at each step, a line a seed: tiny at first, then growing.",
        ),
    ]


def _batch_size(evidence: Evidence) -> list[Figure]:
    question = evidence.question
    assert isinstance(question, BatchSizeQuestion)
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
