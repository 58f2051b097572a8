"""The verdict: is LoRA's loss within the tolerance of full fine-tuning's, outside it, or can this study not tell?

With reinforcement learning the loss is minus the held-out reward, so regret is the reward that LoRA lacks.

Selection bias: a minimum over noisy losses lies a little below the truth. The best learning rate is one, over rates
on the held-out set itself, but for both methods alike, and the seeds other than the search's took no part in it:
most of it cancels in the regret. `lora` is the best of several LoRAs, and what that flatters (`selection.flattery`)
is taken off the verdict's regret and interval. The intervals in `methods` are each method's own, also those of a
full fine-tuning with an optimizer of its own, beside the plain one.
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from lowregret.analysis import reasons
from lowregret.analysis.comparison import Examples, Measured, measure, regret_interval
from lowregret.analysis.gains import measure_gains, sentences
from lowregret.analysis.in_steps import alternative
from lowregret.analysis.interval import CONFIDENCE, Interval
from lowregret.analysis.lag import Curve, measure_lag, with_costs
from lowregret.analysis.selection import flattery
from lowregret.analysis.settle import settle
from lowregret.analysis.tolerance import tolerance_of
from lowregret.runs.records import PILOT, TrialRecord
from lowregret.runs.study import NO_COSTS, Costs
from lowregret.runs.verdict import Gains, IntervalParts, Lag, MethodResult, Recommendation, Ruling, Settling, Verdict
from lowregret.spec import CompareSpec, LoRA
from lowregret.version import __version__


def judge(
    spec: CompareSpec,
    records: Sequence[TrialRecord],
    losses: Mapping[str, Examples],
    base_loss: float | None,
    environment: Mapping[str, Any],
    rules: Sequence[str] = (),
    *,
    curves: Mapping[str, Curve] = MappingProxyType({}),
    costs: Costs = NO_COSTS,
    held_out: int | None = None,
    quantised: Mapping[str, float] = MappingProxyType({}),
    confidence: float = CONFIDENCE,
) -> Verdict:
    """Build `verdict.json` from a study's records (docs/design.md, The verdict).

    Args:
        spec: the study.
        records: all its trials, failed ones included, in any order.
        losses: trial id → per-example held-out losses or rewards; needed for the finished trials at the best rates.
        base_loss: held-out loss before training, nats per supervised token or minus the reward.
        environment: copied into the verdict.
        rules: sentences on how the search went about it (`study.search.describe`), copied into the verdict.
        curves: trial id → step → held-out loss, of the finished trials, the base's at step 0: for the regret in steps.
        costs: what the steps cost beside the time that each trial recorded.
        held_out: examples that the data hold out, more than were used perhaps; None when that is not known.
        quantised: quantisation → held-out loss of the base in it before training.
        confidence: of the intervals that rule; those that are shown are of 95 %.

    Raises:
        RecordsError: trials were judged on different held-out examples, or hold losses that are not finite.
    """
    measured = [measure(method, records, base_loss) for method in spec.methods]
    full = next(side for side in measured if side.method == spec.reference)
    loras = [side for side in measured if isinstance(side.method, LoRA)]
    others = [side for side in measured if side is not full]
    intervals = {side.name: regret_interval(side, full, losses) for side in others}
    learned = None if full.test_loss is None or base_loss is None else base_loss - full.test_loss
    tolerance = tolerance_of(spec, full.test_loss, learned)
    lora, interval, flattered = _judged_lora(spec, loras, full, intervals, losses)
    rulings = {side.name: rule(spec, side, full, intervals[side.name], tolerance, confidence) for side in others}
    ruling: Ruling = "inconclusive" if lora is None else rule(spec, lora, full, interval, tolerance, confidence)
    chosen = _choose(ruling, lora, interval, full, [s for s in loras if rulings[s.name] == "low_regret"], tolerance)
    steps = StepsOf(spec, full, curves, costs)
    results = _results(measured, intervals, rulings, learned, steps, quantised)
    lag = None if lora is None or interval is None else steps.lag(lora, interval)
    settling = _settling(ruling, interval, tolerance, measured, held_out, can_grow=spec.objective.kind != "rl")
    judged = intervals if lora is None else {**intervals, lora.name: interval}
    said = reasons.explain(spec, ruling, lora, full, measured, judged, chosen, base_loss, tolerance, lag, settling)
    gains = measure_gains(records)
    return Verdict(
        verdict=ruling,
        **_of_interval(interval, flattered, full, learned),
        **_in_unit(spec, interval, tolerance, base_loss),
        learned=learned,
        lag=lag,
        reasons=(*said, *reasons.of_quantised(measured, quantised, base_loss), *_notes(records, gains)),
        recommendation=None if chosen is None else _recommendation(spec, chosen, lora, lag, ruling),
        methods=tuple(results.values()),
        lora=None if lora is None else results[lora.name],
        full=None if full.test_loss is None else results[full.name],
        search=_search_summary(records, rules),
        gains=gains,
        settling=settling,
        environment=dict(environment),
        judged_by=__version__,
    )


def _notes(records: Sequence[TrialRecord], gains: Gains) -> list[str]:
    """What finished trials note, each once, with how many do; then what packing and stopping early saved."""
    finished = [record for record in records if record.status == "finished"]
    counts = Counter(record.note for record in finished if record.note)
    noted = [f"Of {count} of {len(finished)} finished trials: {note}." for note, count in counts.items()]
    return [*noted, *sentences(gains, records)]


def _settling(
    ruling: Ruling,
    interval: Interval | None,
    tolerance: float | None,
    measured: Sequence[Measured],
    held_out: int | None,
    *,
    can_grow: bool,
) -> Settling | None:
    """What would decide between the two sides of the tolerance; None when noise is not what stands in the way."""
    if ruling != "inconclusive" or interval is None or tolerance is None:
        return None
    known = interval.covers_seeds and interval.covers_examples
    if not known or not interval.low <= tolerance <= interval.high:
        return None
    return settle(interval, tolerance, measured, held_out, can_grow=can_grow)


@dataclass(frozen=True)
class StepsOf:
    """A study's curves, as the lag of a LoRA needs them."""

    spec: CompareSpec
    full: Measured
    curves: Mapping[str, Curve]
    costs: Costs

    def lag(self, lora: Measured, interval: Interval) -> Lag | None:
        """Of a LoRA with this regret."""
        seeds = [
            seed
            for seed in sorted(lora.finished.keys() & self.full.finished.keys())
            if lora.finished[seed].id in self.curves and self.full.finished[seed].id in self.curves
        ]
        ours, theirs = ([self.curves[side.finished[seed].id] for seed in seeds] for side in (lora, self.full))
        found = measure_lag(ours, theirs, interval, constant_rate=self.spec.optimizer.schedule == "constant")
        return None if found is None else with_costs(found, lora, self.full, self.costs)


def _share(interval: Interval | None, learned: float | None) -> float | None:
    return None if interval is None or learned is None or learned <= 0 else interval.value / learned


def _results(
    measured: Sequence[Measured],
    intervals: Mapping[str, Interval | None],
    rulings: Mapping[str, Ruling],
    learned: float | None,
    steps: StepsOf,
    quantised: Mapping[str, float],
) -> dict[str, MethodResult]:
    """By method."""
    found = {}
    for side in measured:
        interval = intervals.get(side.name)
        more = {
            "regret_learned": _share(interval, learned),
            "lag": None if interval is None else steps.lag(side, interval),
            "base_nll": quantised.get(side.method.quantisation),
        }
        found[side.name] = side.result(interval, rulings.get(side.name)).model_copy(update=more)
    return found


def _judged_lora(
    spec: CompareSpec,
    loras: Sequence[Measured],
    full: Measured,
    intervals: Mapping[str, Interval | None],
    losses: Mapping[str, Examples],
) -> tuple[Measured | None, Interval | None, float]:
    """(the best LoRA, the interval of its regret, what choosing it has flattered, which is taken off there)."""
    comparable = [side for side in loras if _is_comparable(spec, side, full, intervals[side.name])]
    lora, flattered = _best(comparable or loras, intervals), _flattery(comparable, intervals, losses)
    own = None if lora is None else intervals[lora.name]
    return lora, None if own is None else own.less(flattered), flattered


def _of_interval(interval: Interval | None, flattered: float, full: Measured, learned: float | None) -> dict[str, Any]:
    """The verdict's fields that are the interval's."""
    percent = None if interval is None or not full.test_loss else 100 * interval.value / abs(full.test_loss)
    return {
        "regret_percent": percent,
        "regret_learned": _share(interval, learned),
        "ci95": None if interval is None else interval.bounds,
        "interval": None if interval is None else _parts(interval, flattered),
    }


def _best(loras: Sequence[Measured], intervals: Mapping[str, Interval | None]) -> Measured | None:
    """The LoRA of the lowest regret, or of the lowest loss where none could be compared."""

    def loss(side: Measured) -> tuple[bool, float]:
        interval = intervals[side.name]
        assert side.test_loss is not None
        return interval is None, side.test_loss if interval is None else interval.value

    return min((side for side in loras if side.test_loss is not None), key=loss, default=None)


def _flattery(
    loras: Sequence[Measured], intervals: Mapping[str, Interval | None], losses: Mapping[str, Examples]
) -> float:
    """What choosing the best of these LoRAs takes off its regret; each has an interval."""
    pairs = [regret_interval(one, other, losses) for one, other in itertools.combinations(loras, 2)]
    variances = [pair.variance for pair in pairs if pair is not None]
    regrets = [interval.value for side in loras if (interval := intervals[side.name]) is not None]
    return flattery(regrets, statistics.fmean(variances) / 2) if variances else 0.0


def _is_comparable(spec: CompareSpec, lora: Measured, full: Measured, interval: Interval | None) -> bool:
    return interval is not None and not reasons.obstacles(spec, lora, full, interval)


def _parts(interval: Interval, flattered: float) -> IntervalParts:
    return IntervalParts(
        example_variance=interval.example_variance,
        seed_variance=interval.seed_variance,
        rate_variance=interval.rate_variance,
        degrees_of_freedom=interval.counted_freedom,
        examples=interval.examples,
        seeds=interval.seeds,
        depth=interval.depth,
        selection=flattered,
    )


def _in_nats(regret: float | None, tolerance: float | None, base: float | None) -> dict[str, float | None]:
    return {"regret_nats": regret, "tolerance_nats": tolerance, "base_nll": base}


def _in_unit(
    spec: CompareSpec, interval: Interval | None, tolerance: float | None, base_loss: float | None
) -> dict[str, Any]:
    """The verdict's fields that are in nats, or in reward."""
    regret = None if interval is None else interval.value
    return (_in_reward if spec.objective.kind == "rl" else _in_nats)(regret, tolerance, base_loss)


def _in_reward(regret: float | None, tolerance: float | None, base: float | None) -> dict[str, float | None]:
    own = {"regret_reward": regret, "tolerance_reward": tolerance, "base_reward": None if base is None else -base}
    return {**own, **_in_nats(None, None, None)}


def rule(
    spec: CompareSpec,
    lora: Measured,
    full: Measured,
    interval: Interval | None,
    tolerance: float | None,
    confidence: float = CONFIDENCE,
) -> Ruling:
    """The verdict on one LoRA: it takes brackets on both sides, two common seeds, and a whole interval on one side."""
    if tolerance is None or interval is None or reasons.obstacles(spec, lora, full, interval):
        return "inconclusive"
    bounds = interval.at(confidence)
    if bounds.high < tolerance:
        return "low_regret"
    return "regret" if bounds.low > tolerance else "inconclusive"


def _choose(
    ruling: Ruling,
    lora: Measured | None,
    interval: Interval | None,
    full: Measured,
    low: Sequence[Measured],
    tolerance: float | None,
) -> Measured | None:
    """The method to recommend; None when nothing finished."""
    if ruling == "low_regret":
        # Of as many parameters the one that is served on the base that it was trained on.
        return min(low, key=lambda side: (side.trainable_parameters, _on_quantised(side), side.test_loss))
    if lora is None or lora.test_loss is None:
        return None if full.test_loss is None else full
    if full.test_loss is None or tolerance is None:
        return lora
    regret = lora.test_loss - full.test_loss if interval is None else interval.value
    return lora if ruling == "inconclusive" and regret <= tolerance else full


def _on_quantised(side: Measured) -> bool:
    return side.method.quantisation != "none"


def _recommendation(
    spec: CompareSpec, chosen: Measured, lora: Measured | None, lag: Lag | None, ruling: Ruling
) -> Recommendation:
    method, rate = chosen.method, chosen.rate.learning_rate
    assert rate is not None  # a method with a test loss has a best rate
    return Recommendation(
        method=method.name,
        rank=method.rank if isinstance(method, LoRA) else None,
        learning_rate=rate,
        batch_size=spec.batch_size,
        targets=method.targets if isinstance(method, LoRA) else None,
        alternative=None if lora is None or lag is None or ruling != "regret" else alternative(lora.name, lag),
    )


def _search_summary(records: Sequence[TrialRecord], rules: Sequence[str]) -> dict[str, Any]:
    statuses = Counter(PILOT if record.pilot else record.status for record in records)
    counts = {status: statuses[status] for status in ("finished", "diverged", "pruned", "failed", "running")}
    pilots = {"pilots": statuses[PILOT]} if statuses[PILOT] else {}
    return {"trials": len(records), **counts, **pilots, "rules": list(rules)}
