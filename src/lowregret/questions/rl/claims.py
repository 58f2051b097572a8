"""What the post says of training by reward (SCIENCE 3.7, 3.8), each statement beside what measures it. Torch-free.

A loss is minus a held-out reward here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lowregret.analysis.bits import BITS_PER_PARAMETER
from lowregret.analysis.condition import FULL, Condition
from lowregret.analysis.envelope import plain_loras
from lowregret.analysis.fits import Estimate
from lowregret.analysis.learning_rate import search_loss
from lowregret.analysis.place import Place, mean_factor, middle_place
from lowregret.analysis.rates import loose, unless_loose
from lowregret.questions.claim import Evidence, Measure, Stated, Statement
from lowregret.questions.rl.spec import RLQuestion
from lowregret.spec import RL

STEEP = 0.5
"""Of what a good rate gains at least: where less than this part of it is left at the next rate, no line is drawn."""


def claims(question: RLQuestion) -> tuple[Stated[RLQuestion], ...]:
    rank, good = min(question.ranks), f"{100 * question.good:g} %"
    return (
        Stated(
            Statement(
                key="rl-rank-1",
                number="3.7",
                sentence=f"Trained by reward, LoRA ends where full fine-tuning does, down to rank {rank}.",
                statistic=f"held-out reward of FullFT minus that of rank {rank}, each at its best rate",
                unit="number",
                high=question.tolerance,
            ),
            _regret,
        ),
        Stated(
            Statement(
                key="rl-range",
                number="3.7",
                sentence="Trained by reward, LoRA has a wider range of good learning rates than full fine-tuning.",
                statistic=f"highest over lowest rate that gains {good} of what the best one gains over the base: "
                "LoRA's, geometric mean over ranks, over FullFT's",
                unit="ratio",
                low=1.0,
            ),
            _range,
        ),
    )


def _regret(evidence: Evidence[RLQuestion]) -> Measure:
    """The lowest rank's regret; the others', and every best reward, as details."""
    condition = evidence.conditions["main"]
    details: dict[str, float | None] = {"base": -condition.base_nll}
    for method in condition.methods:
        best = condition.best(method.name)
        details[method.name] = None if best is None or best.loss is None else -best.loss.value
    loras = plain_loras(condition)
    for lora in loras:
        found = condition.difference(lora.name, FULL)
        details[f"{lora.name}, regret"] = None if found is None else found.value
    details |= _bits(condition)
    lowest = loras[0].name
    note = loose(condition, (lowest, FULL))
    estimate = unless_loose(condition.difference(lowest, FULL), note)
    return Measure(estimate, " ".join(filter(None, (note, _level(condition, (lowest, FULL))))), details)


def _level(condition: Condition, methods: tuple[str, ...]) -> str:
    """Graded samples are few, so that several rates may have the very same reward."""
    found = []
    for name in methods:
        best = condition.best(name)
        if best is not None and len(best.level) > 1:
            found.append(f"{name} at {', '.join(f'{rate:.3g}' for rate in best.level)}")
    return f"Level at the search's seed, where the middle one counts as the best: {'; '.join(found)}." if found else ""


@dataclass(frozen=True)
class GoodRange:
    """The learning rates at which training gains enough, one seed; log2."""

    low: Place
    high: Place
    closed: bool
    """Whether rates that gain too little were tried on both sides; if not, the range is at least so wide."""

    @property
    def width(self) -> Place:
        """The highest rate over the lowest."""
        return self.high - self.low


def good_ranges(condition: Condition, method: str, good: float) -> dict[int, GoodRange]:
    """Seed → the range around the best rate in which the gain over the base is `good` of that seed's at the best rate.

    A seed that gained nothing there has no range, and a trial that failed says nothing of its rate.
    """
    best = condition.best(method)
    if best is None:
        return {}
    found: dict[int, GoodRange | None] = {}
    for seed in best.losses:
        tried = [trial for trial in condition.of(method, seed) if search_loss(trial.record) is not None]
        gains = {trial.log_rate: _gain(condition, trial.loss()) for trial in tried}
        found[seed] = range_about(gains, math.log2(best.learning_rate), good)
    return {seed: own for seed, own in found.items() if own is not None}


def range_about(gains: Mapping[float, float], best: float, good: float) -> GoodRange | None:
    """Where the gain is at least `good` of that at `best`; None where that is none. `gains` is by log2 of the rate."""
    enough = good * gains[best]
    if enough <= 0:
        return None
    (low, ended), (high, stopped) = (_end(gains, best, enough, side) for side in (-1, 1))
    return GoodRange(low, high, ended and stopped)


def _gain(condition: Condition, loss: float) -> float:
    """Over the base; a trial that came to nothing has lost all that there was."""
    return condition.base_nll - loss if math.isfinite(loss) else 0.0


def _end(gains: Mapping[float, float], centre: float, enough: float, side: int) -> tuple[Place, bool]:
    """Where the gain falls below `enough` on one side, and whether it does.

    Between two rates the gain is interpolated in log2 of the rate, but where it falls too far for that, as where
    training breaks down: then the end may lie anywhere between the two.
    """
    place = centre
    for rate in sorted((r for r in gains if (r - centre) * side > 0), key=lambda r: abs(r - centre)):
        if gains[rate] < STEEP * enough:
            half = (rate - place) / 2
            return Place(place + half, side * half), True
        if gains[rate] < enough:
            share = (gains[place] - enough) / (gains[place] - gains[rate])
            return Place(place + share * (rate - place)), True
        place = rate
    return Place(place), False


def _range(evidence: Evidence[RLQuestion]) -> Measure:
    """How many times wider LoRA's range is, by seed."""
    condition, good = evidence.conditions["main"], evidence.question.good
    ranges = {method.name: good_ranges(condition, method.name, good) for method in condition.methods}
    details: dict[str, float | None] = {
        name: 2.0 ** statistics.fmean(r.width.at for r in found.values()) if found else None
        for name, found in ranges.items()
    }
    estimate, note = times_as_wide(ranges, [method.name for method in plain_loras(condition)])
    return Measure(estimate, note, details)


def times_as_wide(ranges: Mapping[str, Mapping[int, GoodRange]], names: Sequence[str]) -> tuple[Estimate | None, str]:
    """(the range of the LoRAs of these names, geometric mean over them, over FullFT's; a note), of the seeds that all
    have. `ranges` is by method and seed."""
    full = ranges[FULL]
    seeds = sorted(set(full).intersection(*(ranges[name] for name in names)))
    ratios = [middle_place([ranges[name][s].width for name in names]) - full[s].width for s in seeds]
    estimate, note = mean_factor(ratios), ""
    open_ended = [name for name in (*names, FULL) if not all(ranges[name][s].closed for s in seeds)]
    if estimate is not None and open_ended:
        note = f"The range of {', '.join(open_ended)} is at least as wide as the rates that were tried."
        if FULL in open_ended:  # FullFT's may be wider still, and the ratio less
            estimate = estimate.without("low")
        if set(open_ended) - {FULL}:
            estimate = estimate.without("high")
    return estimate, note


def _bits(condition: Condition) -> dict[str, float | None]:
    """What the samples of a run could teach at most, and the share of it for which the lowest rank has room.

    The entropy of a group's rewards is a bit an episode at most (SCIENCE 3.8): numbers to read, about which there is
    no claim, since none of them could come out otherwise.
    """
    objective = condition.spec.objective
    assert isinstance(objective, RL)
    episodes = condition.spec.batch_size * objective.group_size
    details: dict[str, float | None] = {}
    for method in condition.methods:
        trials = condition.at_best(method.name)
        totals = [math.fsum(samples.bits for samples in trial.samples.values()) for trial in trials]
        steps = sum(len(trial.samples) for trial in trials)
        details[f"{method.name}, bits an episode"] = math.fsum(totals) / (steps * episodes) if steps else None
        if method.name == plain_loras(condition)[0].name and trials:
            room = BITS_PER_PARAMETER * trials[0].record.trainable_parameters
            details[f"{method.name}, bits of a run over bits it can store"] = statistics.fmean(totals) / room
    return details
