"""The statistic of every claim, from a study's evidence. Torch-free.

One function a question; each returns, by the key of the statement, the estimate and the parts that it was made of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lowregret.analysis.envelope import common_curve, departure, envelope, plain_loras, top_rank
from lowregret.analysis.evidence import FULL, Condition, Evidence
from lowregret.analysis.fits import Estimate, exponential, mean, r_squared, slope
from lowregret.spec.questions import EarlyQuestion, ShortRunsQuestion

LOW_RANK = 4
"""From this rank on the post has the best learning rate move by less than a factor of 2."""


@dataclass(frozen=True)
class Measure:
    """What a measure hands over."""

    estimate: Estimate | None
    note: str = ""
    details: Mapping[str, float | None] = field(default_factory=dict)


Measures = dict[str, Measure]


def unless_loose(estimate: Estimate | None, note: str) -> Estimate | None:
    """An estimate that rests on best rates; without its interval, so that it rules nothing, where a note says why."""
    return estimate if estimate is None or not note else Estimate(value=estimate.value, n=estimate.n)


def rank(evidence: Evidence) -> Measures:
    """SCIENCE.md 3.1."""
    regrets: dict[str, Estimate] = {}
    linear: dict[int, list[float]] = {}
    places: list[tuple[float, float]] = []
    departures: dict[str, float | None] = {}
    for name, condition in evidence.conditions.items():
        top, full = top_rank(condition), condition.best(FULL)
        if top is None or full is None or full.loss is None:
            continue
        regret = condition.difference(top, FULL)
        if regret is not None:
            regrets[name] = regret.over(full.loss.value)
        for method in (FULL, top):
            for run in condition.at_best(method):
                steps = sorted(run.test)
                found = r_squared([math.log(step) for step in steps], [run.test[step] for step in steps])
                if found is not None:
                    linear.setdefault(run.record.seed, []).append(found)
        common = common_curve(condition)
        for lora in plain_loras(condition):
            if lora.name == top:
                continue
            left = departure(envelope(condition, lora.name), common, condition.base_nll)
            departures[f"{name} {lora.name}"] = left
            if left is not None:
                places.append((math.log2(lora.rank), math.log2(left)))
    worst = max(regrets.values(), key=lambda found: found.value, default=None)
    # The curves of one seed are of one order of the data: their mean is one value.
    straight = {seed: sum(found) / len(found) for seed, found in sorted(linear.items())}
    return {
        "rank-coincide": Measure(worst, details={name: found.value for name, found in regrets.items()}),
        "rank-log-linear": Measure(
            mean(list(straight.values())), details={f"seed {s}": v for s, v in straight.items()}
        ),
        "rank-departure": Measure(
            slope([x for x, _ in places], [y for _, y in places]),
            note="" if places else "no rank leaves the common curve within these steps",
            details=departures,
        ),
        "rank-no-floor": _no_floor(list(evidence.conditions.values())[-1]),
    }


def _no_floor(condition: Condition) -> Measure:
    loras = plain_loras(condition)
    if not loras:
        return Measure(None)
    falls = {}
    for run in condition.at_best(loras[0].name):
        half = [step for step in run.test if step <= condition.steps / 2]
        if half:
            falls[f"seed {run.record.seed}"] = run.test[max(half)] - run.loss()
    return Measure(mean(list(falls.values())), details=dict(falls))


def log_ratios(
    condition: Condition, methods: Sequence[str], step: int | None = None, other: str = FULL
) -> tuple[dict[int, float], str]:
    """(seed → log2 of the fitted best rate of `methods`, geometric mean, over that of `other`; a note).

    Where one of the two sides has one seed only, its fit serves all seeds of the other.
    """
    reference = condition.best(other, step)
    bests = [condition.best(name, step) for name in methods]
    known = [best for best in bests if best is not None and best.fitted]
    if reference is None or not reference.fitted or not known:
        return {}, "a best rate is missing"
    loose = not reference.bracketed or any(not best.bracketed for best in known)
    note = "A best rate is not bracketed." if loose else ""
    seeds = set.intersection(*(set(best.fitted) for best in (reference, *known)))
    found = {
        seed: sum(best.fitted[seed] for best in known) / len(known) - reference.fitted[seed] for seed in sorted(seeds)
    }
    return found, note


def _ratio(condition: Condition, methods: Sequence[str], step: int | None = None, other: str = FULL) -> Measure:
    """The ratio of best rates; open when a side of one of them is."""
    ratios, note = log_ratios(condition, methods, step, other)
    estimate = unless_loose(exponential(mean(list(ratios.values()))), note)
    return Measure(estimate, note, {f"seed {seed}": 2.0**value for seed, value in ratios.items()})


def learning_rate(evidence: Evidence) -> Measures:
    """SCIENCE.md 3.2."""
    condition = evidence.conditions["main"]
    loras = plain_loras(condition)
    high = [method.name for method in loras if method.rank >= LOW_RANK]
    rates: dict[str, float | None] = {}
    for method in condition.methods:
        best = condition.best(method.name)
        rates[method.name] = None if best is None or best.fitted_rate is None else best.fitted_rate.value
    ratio = _ratio(condition, high)
    fits = [best.fitted for name in high if (best := condition.best(name)) is not None]
    drifts = {}
    if len(fits) > 1:
        for seed in sorted(set.intersection(*(set(found) for found in fits))):
            drifts[seed] = max(found[seed] for found in fits) - min(found[seed] for found in fits)
    loose = _loose(condition, high)
    drift = unless_loose(exponential(mean(list(drifts.values()))), loose)
    measures = {
        "rate-ratio": Measure(ratio.estimate, ratio.note, {**ratio.details, **rates}),
        "rate-drift": Measure(drift, loose, {f"seed {s}": 2.0**v for s, v in drifts.items()}),
    }
    if loras and loras[0].rank == 1 and high:
        others = [best.fitted for name in high if (best := condition.best(name)) is not None]
        own = condition.best(loras[0].name)
        if own is not None and others:
            seeds = sorted(set.intersection(set(own.fitted), *(set(found) for found in others)))
            values = [own.fitted[s] - sum(found[s] for found in others) / len(others) for s in seeds]
            loose = _loose(condition, [loras[0].name, *high])
            measures["rate-rank-1"] = Measure(unless_loose(exponential(mean(values)), loose), loose)
    return measures


def _loose(condition: Condition, methods: Sequence[str]) -> str:
    """A note when a best rate is not bracketed, which leaves what rests on it open."""
    bests = [condition.best(name) for name in methods]
    return "A best rate is not bracketed." if any(best is None or not best.bracketed for best in bests) else ""


def short_runs(evidence: Evidence) -> Measures:
    """SCIENCE.md 3.3."""
    condition, question = evidence.conditions["main"], evidence.question
    assert isinstance(question, ShortRunsQuestion)
    names = [method.name for method in plain_loras(condition)]
    by_length = {step: log_ratios(condition, names, step) for step in question.lengths}
    nearest = min(question.lengths, key=lambda step: abs(math.log(step / 100)))
    details = {
        f"{step} steps": 2.0 ** (sum(found.values()) / len(found)) if found else None
        for step, (found, _) in by_length.items()
    }
    slopes = []
    for seed in sorted(set().union(*(set(found) for found, _ in by_length.values()))):
        points = [(math.log2(step), found[seed]) for step, (found, _) in by_length.items() if seed in found]
        line = slope([x for x, _ in points], [y for _, y in points])
        if line is not None:
            slopes.append(line.value)
    at = _ratio(condition, names, nearest)
    loose = next((note for _, note in by_length.values() if note), "")
    return {
        "short-ratio": Measure(at.estimate, " ".join(filter(None, (f"at {nearest} steps.", at.note))), details),
        "short-falls": Measure(unless_loose(mean(slopes), loose), loose, details),
    }


def early(evidence: Evidence) -> Measures:
    """SCIENCE.md 3.4."""
    condition, question = evidence.conditions["main"], evidence.question
    assert isinstance(question, EarlyQuestion)
    spreads = spread_over_ranks(condition)
    shares, growth = [], []
    details: dict[str, float | None] = {}
    for seed, curve in spreads.items():
        step = min(curve, key=lambda s: (abs(s - question.early_steps), s))
        spread, learned = curve[step]
        last, _ = curve[max(curve)]
        details[f"seed {seed}, step {step}"], details[f"seed {seed}, step {max(curve)}"] = spread, last
        if learned > 0:
            shares.append(spread / learned)
        if spread > 0 and last > 0 and step < max(curve):  # a run that ends early has not grown, or has it
            growth.append(math.log2(last / spread))
    return {
        "early-same": Measure(mean(shares), details=details),
        "early-grow": Measure(exponential(mean(growth)), details=details),
    }


def spread_over_ranks(condition: Condition) -> dict[int, dict[int, tuple[float, float]]]:
    """Seed → step → (highest minus lowest held-out loss over ranks, what had been learned by then on average)."""
    found: dict[int, dict[int, tuple[float, float]]] = {}
    for seed in sorted({run.record.seed for run in condition.runs}):
        curves = [run.test for lora in plain_loras(condition) for run in condition.of(lora.name, seed)]
        steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
        for step in steps:
            losses = [curve[step] for curve in curves]
            learned = condition.base_nll - sum(losses) / len(losses)
            found.setdefault(seed, {})[step] = (max(losses) - min(losses), learned)
    return found


def batch_size(evidence: Evidence) -> Measures:
    """SCIENCE.md 3.5."""
    conditions = list(evidence.conditions.values())
    loras = [method.name for method in plain_loras(conditions[0])]
    slopes = {name: _batch_slopes(conditions, name) for name in (*loras, FULL)}
    details = {f"{name}, per doubling": _average(found) for name, found in slopes.items()}
    seeds = sorted(set.intersection(*(set(found) for found in slopes.values())))
    gaps = [sum(slopes[name][s] for name in loras) / len(loras) - slopes[FULL][s] for s in seeds]
    apart = [slopes[loras[-1]][s] - slopes[loras[0]][s] for s in seeds]
    own = _average(slopes[FULL])
    free = mean(apart) if len(loras) > 1 else None
    least = min(slopes, key=lambda name: _average(slopes[name]) or math.inf)
    return {
        "batch-gap": Measure(mean(gaps), details=details),
        "batch-rank-free": Measure(
            free.over(abs(own)) if free is not None and own else None,
            "" if len(loras) > 1 else "one rank has nothing to be compared with",
            details,
        ),
        "batch-small": Measure(mean(list(slopes[least].values())), f"Least for {least}.", details),
    }


def _batch_slopes(conditions: Sequence[Condition], method: str) -> dict[int, float]:
    """Seed → slope of the loss at each batch's best rate against log2(batch)."""
    points: dict[int, list[tuple[float, float]]] = {}
    for condition in conditions:
        best = condition.best(method)
        for seed, loss in (best.losses if best is not None else {}).items():
            points.setdefault(seed, []).append((math.log2(condition.spec.batch_size), loss))
    lines = {s: slope([x for x, _ in found], [y for _, y in found]) for s, found in points.items()}
    return {seed: line.value for seed, line in sorted(lines.items()) if line is not None}


def _average(found: Mapping[int, float]) -> float | None:
    return sum(found.values()) / len(found) if found else None
