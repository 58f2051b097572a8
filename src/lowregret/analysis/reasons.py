"""The verdict's reasons: whole sentences with numbers and units, for a person. Torch-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from lowregret.analysis.comparison import Measured
from lowregret.analysis.in_steps import in_steps
from lowregret.analysis.interval import Interval
from lowregret.analysis.learning_rate import BestRate
from lowregret.analysis.numbers import Scale, nats, scale_of
from lowregret.analysis.settle import sentence
from lowregret.analysis.tolerance import SHARE_OF
from lowregret.quantities import byte_count
from lowregret.runs.files import TRIAL
from lowregret.runs.records import PILOT
from lowregret.runs.verdict import Lag, MethodResult, Settling
from lowregret.spec import CompareSpec, FullFT

_POST_RATIO, _POST_SHORT_RATIO, _POST_SHORT_STEPS = 10, 15, 100  # SCIENCE 3.2 and 3.3
_SHORT_UNTIL_STEPS = 300
"""Runs up to here are nearer, in log steps, to the post's 100 than to 1,000: our reading, the post gives no limit."""
_SHOWN = 5e-5
"""What is less than this is not seen in four decimals."""


def explain(
    spec: CompareSpec,
    ruling: str,
    lora: Measured | None,
    full: Measured,
    measured: Sequence[Measured],
    intervals: Mapping[str, Interval | None],
    chosen: Measured | None,
    base_loss: float | None,
    tolerance: float | None,
    lag: Lag | None,
    settling: Settling | None = None,
) -> list[str]:
    """All sentences, the answer first, then the evidence, then what to be careful about."""
    interval = None if lora is None else intervals[lora.name]
    scale = scale_of(spec.objective.kind)
    said: list[str] = []
    if lora is not None and full.test_loss is not None and interval is not None:
        said.append(_answer(spec, ruling, lora, full, interval, base_loss, tolerance))
        said += obstacles(spec, lora, full, interval)
        if tolerance is None:
            said.append("Full fine-tuning has learned nothing here, of which LoRA could keep a share.")
        elif ruling == "inconclusive" and interval.low <= tolerance <= interval.high:
            said.append(_straddles(interval, scale, settling))
        said += in_steps(lora.name, lag, scale)
        said.append(_evidence(lora, full, interval, scale))
    else:
        said.append("Inconclusive: the two methods cannot be compared.")
        for side in measured if lora is None else [lora, full]:
            said += _not_searched(side)
        if lora is not None and full.test_loss is not None:
            said += obstacles(spec, lora, full, None)
    said += _choice(ruling, chosen, lora, intervals, scale)
    if lora is not None and full.test_loss is not None:
        said += [*_rates(lora, full, scale), *_costs(lora.result(), full.result())]
    said += _against_base(base_loss, [side for side in (lora, full) if side is not None], scale)
    said += _cautions(measured, lora, full)
    said.append(_counts(measured))
    return said


def obstacles(spec: CompareSpec, lora: Measured, full: Measured, interval: Interval | None) -> list[str]:
    """Why no interval, however narrow, could decide between these two: a sentence each; [] when one could."""
    scale = scale_of(spec.objective.kind)
    found = [
        sentence
        for side in (full, lora)
        if side.rate.learning_rate is not None and not side.rate.bracketed
        for sentence in [_unbracketed(side)]
    ]
    found += [
        f"{side.name} diverged at its best learning rate with seed {', '.join(map(str, side.diverged_seeds))}, and "
        f"the {scale.noun} of the seeds that survived flatters it: try a lower rate with --learning-rates in a new "
        "folder."
        for side in (full, lora)
        if side.diverged_seeds
    ]
    if interval is None:
        if lora.finished and full.finished:
            found.append(
                f"No seed has both methods' results {scale.example} by {scale.example}, so they cannot be paired: "
                "run the same command again to complete the records."
            )
        return found
    # An automatic search without a bracket runs no other seeds: there the bracket is what is missing.
    if not interval.covers_seeds and not (found and spec.learning_rates == "auto"):
        cause = (
            "Only one seed was asked for"
            if spec.seeds < 2
            else f"Of {spec.seeds} seeds only one finished with both methods"
        )
        found.append(
            f"{cause}, so the noise between seeds is unknown and the interval holds only that of the held-out "
            f"{scale.example}s: run with more seeds (--seeds {max(3, spec.seeds + 1)}) in the same folder."
        )
    if not interval.covers_examples:
        found.append(
            f"There is only one held-out {scale.example}, so the noise between {scale.example}s is unknown: give more "
            "held-out data."
        )
    return found


def _answer(
    spec: CompareSpec,
    ruling: str,
    lora: Measured,
    full: Measured,
    interval: Interval,
    base_loss: float | None,
    tolerance: float | None,
) -> str:
    assert lora.test_loss is not None
    assert full.test_loss is not None
    scale = scale_of(spec.objective.kind)
    learned = None if base_loss is None else base_loss - full.test_loss
    share = (
        f", {100 * interval.value / learned:+.2g} % of what full fine-tuning learns"
        if learned is not None and learned > 0
        else ""
    )
    limit = "" if scale.rewards else f", {100 * spec.tolerance:g} % of " + SHARE_OF[spec.tolerance_of]
    unit = scale.unit or " of reward"
    allowed = "" if tolerance is None else f"; tolerance: {nats(tolerance)}{unit}{limit}"
    numbers = (
        f"the regret of {lora.name} is {nats(interval.value, sign=True)}{unit}{share} (95 % interval: "
        f"{nats(interval.low, sign=True)} to {nats(interval.high, sign=True)}{unit}{allowed})."
    )
    if ruling == "regret":
        return f"Full fine-tuning is better, and the whole interval lies above the tolerance: {numbers}"
    if ruling == "inconclusive":
        return f"Inconclusive: {numbers}"
    if interval.high < 0:
        return f"LoRA is better than full fine-tuning here: {numbers}"
    if interval.value < 0:
        at_the_bottom = " at the bottom of its bowl of learning rates" if lora.test_loss >= full.test_loss else ""
        return (
            f"LoRA does as well as full fine-tuning within the tolerance; its {scale.noun}{at_the_bottom} is even the "
            f"better one, though not by more than the noise: {numbers}"
        )
    return f"LoRA does as well as full fine-tuning within the tolerance, over the whole interval: {numbers}"


def _straddles(interval: Interval, scale: Scale, settling: Settling | None) -> str:
    if settling is None:
        return "The interval reaches from one side of the tolerance to the other."
    return (
        "The interval reaches from one side of the tolerance to the other: the noise is too large to say whether the "
        f"regret is low. {sentence(settling, interval, scale)}"
    )


def _evidence(lora: Measured, full: Measured, interval: Interval, scale: Scale) -> str:
    seeds = f"{interval.seeds} seed{'s' if interval.seeds > 1 else ''} with both methods"
    shares = (
        f"; {100 * interval.example_share:.0f} % of the interval's variance comes from the choice of {scale.example}s, "
        f"{100 * interval.seed_share:.0f} % from the seeds, {100 * interval.rate_share:.0f} % from the rates between "
        "those tried"
        if interval.covers_seeds and interval.covers_examples
        else ""
        if interval.covers_seeds
        else "; the interval leaves out the noise between seeds"
    )
    tokens = "" if scale.rewards else f" ({max(lora.test_tokens, full.test_tokens):,} supervised tokens)"
    return (
        f"The evidence is {seeds} on the same {interval.examples} held-out {scale.example}s{tokens}, "
        f"compared pair by pair{shares}.{_between_bottoms(lora, full, interval, scale)}"
    )


def _between_bottoms(lora: Measured, full: Measured, interval: Interval, scale: Scale) -> str:
    """Why the regret is not the difference of the losses at the best rates tried, where it is not."""
    plain = (lora.test_loss or 0.0) - (full.test_loss or 0.0)
    said = []
    if abs(interval.depth) >= _SHOWN:
        bottoms = " and ".join(f"{scale.score(side.bottom or 0.0)} with {side.name}" for side in (lora, full))
        said.append(
            f"is between the bottoms of both methods' bowls of learning rates ({bottoms}), not between the best rates "
            "tried"
        )
    if abs(interval.value - (plain - interval.depth)) >= _SHOWN and lora.finished.keys() == full.finished.keys():
        said.append("leaves out what being the best of several LoRAs flatters")
    return f" The regret {', and '.join(said)}." if said else ""


def _not_searched(side: Measured) -> list[str]:
    if side.test_loss is not None:
        return []
    ended = _statuses(side.statuses) or "none was run"
    if side.statuses.get("diverged") or side.statuses.get("pruned"):
        remedy = "try smaller learning rates with --learning-rates"
    elif side.statuses.get("failed"):
        remedy = f"the field `error` of each trial's {TRIAL} says why"
    else:
        remedy = "run the same command again to complete the study"
    return [f"No trial of {side.name} finished ({ended}): {remedy}."]


def _unbracketed(side: Measured) -> str:
    rate = side.rate
    assert rate.learning_rate is not None
    missing = [word for word, edge in (("below", rate.lower), ("above", rate.upper)) if edge is None]
    factors = {"below": (1 / 4, 1 / 16), "above": (4, 16)}
    tries = ", ".join(f"{rate.learning_rate * factor:.3g}" for word in missing for factor in factors[word])
    return (
        f"The best learning rate of {side.name}, {rate.learning_rate:.3g}, is not bracketed: no worse result lies "
        f"{' or '.join(missing)} it, so a better rate may lie there. Try {tries} too, with --learning-rates "
        "in a new folder."
    )


def _choice(
    ruling: str,
    chosen: Measured | None,
    lora: Measured | None,
    intervals: Mapping[str, Interval | None],
    scale: Scale,
) -> list[str]:
    if chosen is None or chosen.test_loss is None:
        return ["Nothing finished, so nothing is recommended."]
    if ruling == "inconclusive":
        return [
            f"The recommendation of {chosen.name} is provisional: on the results so far it is the better bet, "
            "or the cheaper one within the tolerance; it is not a measured verdict."
        ]
    if lora is not None and chosen.method != lora.method and not isinstance(chosen.method, FullFT):
        own = intervals[chosen.name]
        assert own is not None
        return [
            f"{chosen.name} is recommended over {lora.name}, whose {scale.noun} is the best of the LoRAs: its own "
            f"interval, {nats(own.low, sign=True)} to {nats(own.high, sign=True)}{scale.unit}, lies under the "
            f"tolerance too, and {_cheaper(chosen, lora)}."
        ]
    return []


def _cheaper(chosen: Measured, lora: Measured) -> str:
    """What one LoRA is chosen over a better one for."""
    if chosen.trainable_parameters == lora.trainable_parameters and lora.method.quantisation != "none":
        return "it is served on the base that it was trained on, which the other is not"
    return f"it trains {chosen.trainable_parameters:,} parameters instead of {lora.trainable_parameters:,}"


def _rates(lora: Measured, full: Measured, scale: Scale) -> list[str]:
    ours, theirs = lora.rate.learning_rate, full.rate.learning_rate
    if ours is None or theirs is None:
        return []
    short = lora.steps <= _SHORT_UNTIL_STEPS
    post = (
        f"about {_POST_SHORT_RATIO} times for short runs of some {_POST_SHORT_STEPS} steps"
        if short
        else f"about {_POST_RATIO} times"
    )
    known = " (not both are bracketed)"
    if lora.rate.bracketed and full.rate.bracketed:
        known = " (each known to a factor of 2)" if _within_2(lora.rate) and _within_2(full.rate) else ""
    reported = "." if scale.rewards else f"; LoRA Without Regret reports {post}."  # its ratios are of supervised runs
    return [
        f"The best learning rates are {ours:.3g} for {lora.name} and {theirs:.3g} for full fine-tuning, a ratio of "
        f"{ours / theirs:.3g}{known}, after {lora.steps:,} steps{reported}"
    ]


def _within_2(rate: BestRate) -> bool:
    if rate.learning_rate is None or rate.lower is None or rate.upper is None:
        return False
    return rate.upper <= 2 * rate.learning_rate <= 4 * rate.lower


def _costs(lora: MethodResult, full: MethodResult) -> list[str]:
    pairs = [
        ("peak memory", lora.peak_memory_bytes, full.peak_memory_bytes, byte_count),
        ("time", lora.alone_seconds, full.alone_seconds, "{:.1f} s".format),
        ("trained parameters", lora.trainable_parameters, full.trainable_parameters, "{:,}".format),
        ("checkpoint", lora.checkpoint_bytes, full.checkpoint_bytes, byte_count),
    ]
    parts = [
        f"{what} {ours / theirs:.2g} times ({show(ours)} against {show(theirs)})"
        for what, ours, theirs, show in pairs
        if ours and theirs
    ]
    if not parts:
        return []
    packed = (
        f" Up to {lora.pack_size} trials of LoRA were trained together, so the memory is that of all, and the time is "
        f"an estimate of one alone; its share was {lora.seconds:.1f} s."
        if lora.pack_size > 1
        else ""
    )
    return [f"One trial of {lora.name} against one of full fine-tuning: {'; '.join(parts)}.{packed}"]


def _against_base(base_loss: float | None, sides: Sequence[Measured], scale: Scale) -> list[str]:
    reached = [(side.name, side.test_loss) for side in sides if side.test_loss is not None]
    if base_loss is None or not reached:
        return []
    results = " and ".join(f"{scale.score(loss)} with {name}" for name, loss in reached)
    if any(side.bottom != side.test_loss for side in sides if side.test_loss is not None):
        results = f"at the best rates tried, {results}"
    helped = [name for name, loss in reached if loss < base_loss]
    caution = "" if helped else ", so training did not help: equal results say little about the methods here"
    return [
        f"The base's {scale.noun} before training is {scale.score(base_loss)}{scale.per}; after it, {results}{caution}."
    ]


def of_quantised(measured: Sequence[Measured], quantised: Mapping[str, float], base_loss: float | None) -> list[str]:
    """What quantising the base costs before training: a sentence for each quantisation."""
    if base_loss is None:
        return []
    users = {name: [side.name for side in measured if side.method.quantisation == name] for name in quantised}
    return [
        f"The base in {name}, on which {', '.join(users[name])} trains, starts at {nats(loss)} nats per token, "
        f"{nats(loss - base_loss, sign=True)} beside the base as it is."
        for name, loss in quantised.items()
        if users[name]
    ]


def _cautions(measured: Sequence[Measured], lora: Measured | None, full: Measured) -> list[str]:
    said = []
    for side in measured:
        if side.diverged_seeds and side is not full and side is not lora:
            said.append(
                f"{side.name} diverged at its best learning rate with seed {', '.join(map(str, side.diverged_seeds))}: "
                "its mean leaves that seed out, and a smaller rate is safer."
            )
        contender = side is full or side is lora
        if not contender and side.rate.learning_rate is not None and not side.rate.bracketed:
            said.append(f"{_unbracketed(side)} Its regret may thus be smaller than shown.")
    return said


def _counts(measured: Sequence[Measured]) -> str:
    total: Counter[str] = Counter()
    for side in measured:
        total.update(side.statuses)
    trials = sum(total.values())
    said = f"{trials} trial{'' if trials == 1 else 's'} were run" + (f": {_statuses(total)}." if trials else ".")
    stopped = [f"{side.stopped} of {side.name}" for side in measured if side.stopped]
    if stopped:
        said += f" Stopped by request, so that a better rate may have been missed: {', '.join(stopped)}."
    return said


def _statuses(statuses: Mapping[str, int]) -> str:
    order = ("finished", "pruned", PILOT, "diverged", "failed", "running")
    words = {"running": "unfinished", "pruned": "pruned (stopped early)"}
    words[PILOT] = f"pilot{'s' * (statuses.get(PILOT) != 1)} (trained a part of the way)"
    return ", ".join(f"{statuses[s]} {words.get(s, s)}" for s in order if statuses.get(s))
