"""The statistics of the question about reinforcement learning. Torch-free; a loss is minus a held-out reward here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from lowregret.analysis.envelope import plain_loras
from lowregret.analysis.evidence import FULL, Condition, Evidence
from lowregret.analysis.fits import Estimate, exponential, mean
from lowregret.analysis.measures import Measure, Measures
from lowregret.analysis.statements import BITS_PER_PARAMETER
from lowregret.spec import RL
from lowregret.spec.questions_rl import RLQuestion


def rl(evidence: Evidence) -> Measures:
    """SCIENCE.md 3.7 and 3.8."""
    condition, question = evidence.conditions["main"], evidence.question
    assert isinstance(question, RLQuestion)
    return {
        "rl-rank-1": _regret(condition),
        "rl-range": _range(condition, question.good),
        "rl-bits": _bits(condition),
    }


def _regret(condition: Condition) -> Measure:
    """The lowest rank's regret; the others', and every best reward, as details."""
    details: dict[str, float | None] = {"base": -condition.base_nll}
    for method in condition.methods:
        best = condition.best(method.name)
        details[method.name] = None if best is None or best.loss is None else -best.loss.value
    loras = plain_loras(condition)
    for lora in loras:
        found = condition.difference(lora.name, FULL)
        details[f"{lora.name}, regret"] = None if found is None else found.value
    lowest = loras[0].name
    estimate, note = condition.difference(lowest, FULL), _loose(condition, (lowest, FULL))
    if estimate is not None and note:
        estimate = Estimate(value=estimate.value, n=estimate.n)
    return Measure(estimate, " ".join(filter(None, (note, _level(condition, (lowest, FULL))))), details)


def _level(condition: Condition, methods: tuple[str, ...]) -> str:
    """Graded samples are few, so that several rates may have the very same reward."""
    found = []
    for name in methods:
        best = condition.best(name)
        if best is not None and len(best.level) > 1:
            found.append(f"{name} at {', '.join(f'{rate:.3g}' for rate in best.level)}")
    return f"Level at the search's seed, where the lowest rate counts as the best: {'; '.join(found)}." if found else ""


def _loose(condition: Condition, methods: tuple[str, ...]) -> str:
    bests = [condition.best(name) for name in methods]
    return "A best rate is not bracketed." if any(best is None or not best.bracketed for best in bests) else ""


@dataclass(frozen=True)
class Range:
    """The learning rates at which training gains enough, one seed."""

    low: float
    """log2 of the lowest."""
    high: float
    closed: bool
    """Whether rates that gain too little were tried on both sides; if not, the range is at least so wide."""

    @property
    def width(self) -> float:
        """log2 of the highest rate over the lowest."""
        return self.high - self.low


def good_ranges(condition: Condition, method: str, good: float) -> dict[int, Range]:
    """Seed → the range around the best rate in which the gain over the base is `good` of that seed's at the best rate.

    Between two rates the gain is interpolated in log2 of the rate. A seed that gained nothing there has no range.
    """
    best = condition.best(method)
    found: dict[int, Range] = {}
    for seed, loss in (best.losses if best is not None else {}).items():
        assert best is not None
        gains = {run.log_rate: _gain(condition, run.loss()) for run in condition.of(method, seed)}
        enough = good * (condition.base_nll - loss)
        if enough > 0:
            centre = math.log2(best.learning_rate)
            (low, ended), (high, stopped) = (_end(gains, centre, enough, side) for side in (-1, 1))
            found[seed] = Range(low, high, ended and stopped)
    return found


def _gain(condition: Condition, loss: float) -> float:
    """Over the base; a trial that came to nothing has lost all that there was."""
    return condition.base_nll - loss if math.isfinite(loss) else 0.0


def _end(gains: Mapping[float, float], centre: float, enough: float, side: int) -> tuple[float, bool]:
    """Where the gain falls below `enough` on one side, and whether it does."""
    place = centre
    for rate in sorted((r for r in gains if (r - centre) * side > 0), key=lambda r: abs(r - centre)):
        if gains[rate] < enough:
            share = (gains[place] - enough) / (gains[place] - gains[rate])
            return place + share * (rate - place), True
        place = rate
    return place, False


def _range(condition: Condition, good: float) -> Measure:
    """How many times wider LoRA's range is, by seed."""
    ranges = {method.name: good_ranges(condition, method.name, good) for method in condition.methods}
    details: dict[str, float | None] = {
        name: 2.0 ** statistics.fmean(r.width for r in found.values()) if found else None
        for name, found in ranges.items()
    }
    names = [method.name for method in plain_loras(condition)]
    full = ranges[FULL]
    seeds = sorted(set(full).intersection(*(ranges[name] for name in names)))
    ratios = [statistics.fmean(ranges[name][s].width for name in names) - full[s].width for s in seeds]
    estimate, notes = exponential(mean(ratios)), []
    loose = [name for name in (*names, FULL) if not all(ranges[name][s].closed for s in seeds)]
    if loose:
        notes.append(f"The range of {', '.join(loose)} is at least as wide as the rates that were tried.")
    if FULL in loose and estimate is not None:
        estimate = Estimate(value=estimate.value, n=estimate.n)
    return Measure(estimate, " ".join(notes), details)


def _bits(condition: Condition) -> Measure:
    """What the samples of a run could teach at most, over what the lowest rank can store."""
    objective = condition.spec.objective
    assert isinstance(objective, RL)
    episodes = condition.spec.batch_size * objective.group_size
    details: dict[str, float | None] = {}
    shares: list[float] = []
    for method in condition.methods:
        runs = condition.at_best(method.name)
        totals = [math.fsum(samples.bits for samples in run.samples.values()) for run in runs]
        steps = sum(len(run.samples) for run in runs)
        details[f"{method.name}, bits an episode"] = math.fsum(totals) / (steps * episodes) if steps else None
        if method.name == plain_loras(condition)[0].name:
            shares = [
                total / (BITS_PER_PARAMETER * run.record.trainable_parameters)
                for total, run in zip(totals, runs, strict=True)
            ]
            details["bits of a run"] = statistics.fmean(totals) if totals else None
            details["parameters"] = float(runs[0].record.trainable_parameters) if runs else None
    return Measure(mean(shares), details=details)
