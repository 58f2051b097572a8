"""The verdict: is LoRA's loss within the tolerance of full fine-tuning's, outside it, or can this study not tell?

With reinforcement learning the loss is minus the held-out reward, so regret is the reward that LoRA lacks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lowregret.analysis import reasons
from lowregret.analysis.comparison import Examples, Measured, measure, regret_interval
from lowregret.analysis.gains import measure_gains, sentences
from lowregret.analysis.numbers import scale_of
from lowregret.analysis.settle import settle
from lowregret.analysis.stats import Interval
from lowregret.runs.records import TrialRecord
from lowregret.runs.verdict import Recommendation, Verdict
from lowregret.spec import CompareSpec, FullFT, LoRA

Ruling = Literal["low_regret", "regret", "inconclusive"]


def judge(
    spec: CompareSpec,
    records: Sequence[TrialRecord],
    losses: Mapping[str, Examples],
    base_loss: float | None,
    environment: Mapping[str, Any],
    rules: Sequence[str] = (),
    held_out: int | None = None,
) -> Verdict:
    """Build `verdict.json` from a study's records (docs/design.md, The verdict).

    Selection bias: the best learning rate is the minimum over rates on the held-out set itself, for both methods, and
    `lora` is the minimum over LoRAs. A minimum over noisy losses lies a little below the truth. Both sides search in
    the same way, so most of this cancels in the regret; a study with many LoRAs favours LoRA slightly. The seeds other
    than the search's took no part in choosing the rate.

    Args:
        spec: the study.
        records: all its trials, failed ones included, in any order.
        losses: trial id → per-example held-out losses or rewards; needed for the finished trials at the best rates.
        base_loss: held-out loss before training, nats per supervised token or minus the reward.
        environment: copied into the verdict.
        rules: sentences on how the search went about it (`study.search.describe`), copied into the verdict.
        held_out: examples that the data hold out, more than were used perhaps; None when that is not known.

    Raises:
        RecordsError: trials were judged on different held-out examples, or hold losses that are not finite.
    """
    measured = [measure(method, records) for method in spec.methods]
    full = next(side for side in measured if isinstance(side.method, FullFT))
    loras = [side for side in measured if isinstance(side.method, LoRA)]
    intervals = {side.name: regret_interval(side, full, losses) for side in loras}
    scale = scale_of(spec.objective.kind)
    tolerance = None if full.test_loss is None else scale.tolerance(full.test_loss, spec.tolerance)
    lora = _best(spec, loras, full, intervals)
    interval = None if lora is None else intervals[lora.name]
    rulings = {side.name: rule(spec, side, full, intervals[side.name], tolerance) for side in loras}
    ruling: Ruling = "inconclusive" if lora is None else rulings[lora.name]
    chosen = _choose(ruling, lora, full, [side for side in loras if rulings[side.name] == "low_regret"], tolerance)
    results = {side.name: side.result(intervals.get(side.name)) for side in measured}
    result = None if lora is None else results[lora.name]
    gains = measure_gains(records)
    settling = None
    noisy = interval is not None and interval.covers_seeds and interval.covers_examples and ruling == "inconclusive"
    if noisy and interval is not None and tolerance is not None and interval.low <= tolerance <= interval.high:
        settling = settle(interval, tolerance, measured, held_out, can_grow=not scale.rewards)
    said = reasons.explain(spec, ruling, lora, full, measured, intervals, chosen, base_loss, settling)
    measured_in = _in_reward if scale.rewards else _in_nats
    return Verdict(
        verdict=ruling,
        regret_percent=None if interval is None or not full.test_loss else 100 * interval.value / abs(full.test_loss),
        ci95=None if result is None else result.ci95,
        **measured_in(None if result is None else result.regret, tolerance, base_loss),
        reasons=(*said, *sentences(gains)),
        recommendation=None if chosen is None else _recommendation(spec, chosen),
        methods=tuple(results.values()),
        lora=result,
        full=None if full.test_loss is None else results[full.name],
        search=_search_summary(records, rules),
        gains=gains,
        settling=settling,
        environment=dict(environment),
    )


def _best(
    spec: CompareSpec, loras: Sequence[Measured], full: Measured, intervals: Mapping[str, Interval | None]
) -> Measured | None:
    """The LoRA of the lowest loss, but complete evidence first: a rate without a bracket must not hide one with it."""
    return min(
        (side for side in loras if side.test_loss is not None),
        key=lambda side: (
            bool(reasons.obstacles(spec, side, full, intervals[side.name])),
            side.test_loss if side.test_loss is not None else math.inf,
        ),
        default=None,
    )


def _in_nats(regret: float | None, tolerance: float | None, base: float | None) -> dict[str, float | None]:
    return {"regret_nats": regret, "tolerance_nats": tolerance, "base_nll": base}


def _in_reward(regret: float | None, tolerance: float | None, base: float | None) -> dict[str, float | None]:
    own = {"regret_reward": regret, "tolerance_reward": tolerance, "base_reward": None if base is None else -base}
    return {**own, **_in_nats(None, None, None)}


def rule(
    spec: CompareSpec, lora: Measured, full: Measured, interval: Interval | None, tolerance: float | None
) -> Ruling:
    """The verdict on one LoRA: it takes brackets on both sides, two common seeds, and a whole interval on one side."""
    if tolerance is None or interval is None or reasons.obstacles(spec, lora, full, interval):
        return "inconclusive"
    if interval.high < tolerance:
        return "low_regret"
    return "regret" if interval.low > tolerance else "inconclusive"


def _choose(
    ruling: Ruling, lora: Measured | None, full: Measured, low: Sequence[Measured], tolerance: float | None
) -> Measured | None:
    """The method to recommend; None when nothing finished."""
    if ruling == "low_regret":
        return min(low, key=lambda side: (side.trainable_parameters, side.test_loss))
    if lora is None or lora.test_loss is None:
        return None if full.test_loss is None else full
    if full.test_loss is None or tolerance is None:
        return lora
    if ruling == "inconclusive" and lora.test_loss - full.test_loss <= tolerance:
        return lora
    return full


def _recommendation(spec: CompareSpec, chosen: Measured) -> Recommendation:
    method, rate = chosen.method, chosen.rate.learning_rate
    assert rate is not None  # a method with a test loss has a best rate
    return Recommendation(
        method=method.name,
        rank=method.rank if isinstance(method, LoRA) else None,
        learning_rate=rate,
        batch_size=spec.batch_size,
        targets=method.targets if isinstance(method, LoRA) else None,
    )


def _search_summary(records: Sequence[TrialRecord], rules: Sequence[str]) -> dict[str, Any]:
    statuses = Counter(record.status for record in records)
    counts = {status: statuses[status] for status in ("finished", "diverged", "pruned", "failed", "running")}
    return {"trials": len(records), **counts, "rules": list(rules)}
