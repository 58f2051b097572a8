"""The verdict of a compare in one sentence, and what to see in its figures. Plain text: whoever uses it escapes it."""

from __future__ import annotations

import math

from lowregret.report.charts import words
from lowregret.report.pages import action
from lowregret.report.reading import StudyRecords, cost_of
from lowregret.runs.verdict import MethodResult

OPEN = "Not settled: "
"""What the words of an open verdict begin with."""


def plain(study: StudyRecords) -> str:
    """The verdict as one would say it: as good, better or worse by how much, or what would settle it."""
    verdict = study.verdict
    if verdict.verdict == "inconclusive":
        options = action.settling(study)
        return f"{OPEN}{action.more(study, options[0])}." if options else headline(study)
    if verdict.verdict == "regret":
        return f"LoRA is worse by {_apart(verdict.lora)}."
    chosen = _chosen(study)
    if chosen is not None and chosen.ci95 is not None and chosen.ci95[1] < 0:
        return f"LoRA is better by {_apart(chosen)}."
    return "LoRA is as good as full fine-tuning."


def _chosen(study: StudyRecords) -> MethodResult | None:
    """The LoRA that is recommended, or the one that was judged."""
    advice = study.verdict.recommendation
    return (advice and study.result(advice.method)) or study.verdict.lora


def headline(study: StudyRecords) -> str:
    """The verdict in one sentence: which to choose and why, or that it is not settled and why."""
    verdict = study.verdict
    if verdict.verdict == "inconclusive":
        return f"{OPEN}{_unsettled(study)}."
    if verdict.verdict == "regret":
        lora, apart = _name(study, verdict.lora), _apart(verdict.lora)
        side = "below" if study.rewarded else "above"
        said = f"Choose full fine-tuning: {lora} ends {apart} {side} it, more than the tolerance allows"
        return f"{said}{_steps(study)}."
    chosen = _chosen(study)
    if chosen is not None and chosen.ci95 is not None and chosen.ci95[1] < 0:
        side = "above" if study.rewarded else "below"
        why = f"it ends {_apart(chosen)} {side} full fine-tuning"
    else:
        why = "it matches full fine-tuning within the tolerance"
        why += _rewards(chosen, verdict.full)
    if chosen is not None and verdict.lora is not None and chosen.name == verdict.lora.name:
        why += _steps(study)
    return f"Choose {_name(study, chosen)}: {why}."


def _name(study: StudyRecords, result: MethodResult | None) -> str:
    return words.mid_sentence(study.label(result.name)) if result is not None else "LoRA"


def _unsettled(study: StudyRecords) -> str:
    verdict = study.verdict
    if study.verdict.regret is None:
        return "no regret could be measured"
    pair = [result for result in (verdict.lora, verdict.full) if result is not None]
    loose = [_name(study, result) for result in pair if not result.bracketed]
    if loose:
        rates = "rate of {} is" if len(loose) == 1 else "rates of {} are"
        return f"the best learning {rates.format(_listed(loose))} not bracketed"
    lora, limit = _name(study, verdict.lora), study.verdict.tolerance
    if verdict.ci95 is not None and limit is not None and verdict.ci95[0] <= limit <= verdict.ci95[1]:
        return f"the regret of {lora} may lie on either side of the tolerance"
    if any(result.seeds < 2 for result in pair):
        return "one seed says nothing of the noise between seeds"
    return f"the regret of {lora} has no interval that could decide"


def _rewards(lora: MethodResult | None, full: MethodResult | None) -> str:
    """Both rewards, where there are rewards: ` (reward 0.91 and 0.90)`."""
    pair = [side.test_reward for side in (lora, full) if side is not None and side.test_reward is not None]
    return f" (held-out reward {words.nats(pair[0])} and {words.nats(pair[1])})" if len(pair) == 2 else ""


def _steps(study: StudyRecords) -> str:
    """`; for the same loss it needs 1.3 times the steps`, of the judged LoRA; nothing where that may be no lag."""
    lag = study.verdict.lag
    if lag is None or lag.factor is None or ((lag.low or 0.0) <= 1 <= (lag.high or math.inf)):
        return ""
    return f"; for the same loss it needs {lag.factor:.2g} times the steps"


def _apart(lora: MethodResult | None) -> str:
    if lora is None or lora.regret is None:
        return "measurably"
    if lora.regret_nats is None:
        return f"{words.nats(abs(lora.regret))} of reward"
    share = "" if lora.regret_learned is None else f" ({abs(lora.regret_learned) * 100:.2g} % of what that learns)"
    return f"{words.nats(abs(lora.regret_nats))} nats{share}"


SEARCH_MARKS = (
    "Lines join the finished trials of the search; a ring is a best rate, the dots in it the seeds run there."
)


def rate_caption(study: StudyRecords, marks: str = SEARCH_MARKS) -> str:
    """What to see in loss, or reward, against learning rate; `marks` says what is drawn."""
    parts = []
    for name in study.methods:
        bracket = study.bracket(name)
        if bracket is None:
            parts.append(f"{study.label(name)} has no finished trial.")
            continue
        result = study.result(name)
        if bracket.below is not None and bracket.above is not None and result is not None and result.bracketed:
            around = f"worse at {words.rate(bracket.below)} and at {words.rate(bracket.above)}"
        else:
            around = f"not bracketed: {_open_side(bracket.below, bracket.above)}"
        parts.append(f"{study.label(name)} does best at {words.rate(bracket.best)} ({around}).")
    lora, full = study.verdict.lora, study.verdict.full
    if lora and full and lora.best_learning_rate and full.best_learning_rate:
        ratio = lora.best_learning_rate / full.best_learning_rate
        parts.append(f"The best rate of {study.label(lora.name)} is {ratio:.3g}× that of full fine-tuning.")
    if all(study.bracket(name) is None for name in study.methods):
        return "No trial finished at any learning rate. The marks at the top edge say how each one ended."
    return " ".join([*parts, marks])


def _open_side(below: float | None, above: float | None) -> str:
    if below is None and above is None:
        return "no other rate did worse"
    if below is None:
        return "no lower rate did worse"
    return "no higher rate did worse" if above is None else "the search could not confirm it"


def steps_caption(study: StudyRecords, window: int) -> str:
    """What to see in loss against steps; `window` is the width of the moving average, in steps."""
    ends = [
        f"{words.mid_sentence(study.label(result.name))} at {words.nats(result.test_nll)} nats (perplexity "
        f"{words.perplexity(result.test_nll)})"
        for result in study.verdict.methods
        if result.test_nll is not None
    ]
    smoothing = f"training loss, a moving average over {window} steps" if window > 1 else "training loss"
    how = f"Each method at its best learning rate, mean over its seeds. Lines: {smoothing}. "
    how += "Points: held-out loss, at step 0 that of the base."
    return f"{how} Held-out loss ends with {_listed(ends)}." if ends else "No method has a finished trial to draw."


def cost_caption(study: StudyRecords) -> str:
    """What to see in the cost figure: the best LoRA as a share of full fine-tuning."""
    lora, full = study.verdict.lora, study.verdict.full
    basis = "One trial at each method's best learning rate; bars start at zero."
    if not lora or not full:
        return basis
    costs = ("time", "peak memory", "trainable parameters", "checkpoint size")
    said = [
        f"{f'{ratio * 100:.2g}' if ratio < 0.995 else f'{ratio * 100:.0f}'} % of the {what}"
        for what, own, other in zip(costs, cost_of(lora), cost_of(full), strict=True)
        if (ratio := _ratio(own, other)) is not None
    ]
    return (
        f"{study.label(lora.name)} takes {_listed(said)} of full fine-tuning. {basis}{_packed(study)}"
        if said
        else basis
    )


def _packed(study: StudyRecords) -> str:
    """What time and memory mean for trials that were trained together."""
    packed = [result for result in study.verdict.methods if result.pack_size > 1]
    if not packed:
        return ""
    names = _listed([study.label(result.name) for result in packed])
    most = max(result.pack_size for result in packed)
    return (
        f" {names} shared passes with other trials, up to {most} in training at once. So peak memory is that of all, "
        "and the time, that of one trial alone, is an estimate from a step of each that ran alone; the table below has "
        "its share."
    )


def regret_caption(study: StudyRecords) -> str:
    """What to see in the regret figure."""
    verdict = study.verdict
    if all(result.regret is None for result in verdict.methods):
        return "No regret could be measured; the reasons above say why."
    most, unit = study.verdict.tolerance, "of reward" if study.rewarded else "nats"
    limit = "" if most is None else f" (up to {words.nats(most)} {unit})"
    what = "Held-out loss of each LoRA minus that of full fine-tuning"
    what = "Held-out reward of full fine-tuning minus that of each LoRA" if study.rewarded else what
    examples = "problems" if study.rewarded else "examples"
    return (
        f"{what}, with the 95 % interval from paired {examples} and seeds. "
        f"An interval wholly inside the shaded region{limit} is low regret; one wholly outside is regret; "
        "one across its edge is not settled. Left of zero, LoRA is the better one."
    )


def lag_caption(study: StudyRecords) -> str:
    """What to see in the regret in steps."""
    lag, lora = study.verdict.lag, study.verdict.lora
    how = "Held-out loss of the best LoRA and of full fine-tuning at their best learning rates, means over the seeds."
    if lag is None or lag.factor is None or lora is None:
        return f"{how} {'' if lag is None else lag.note}".strip()
    name = study.label(lora.name)
    bounds = "" if lag.low is None or lag.high is None else f" (95 % interval {lag.low:.2g} to {lag.high:.2g})"
    said = (
        f"The arrow: for the same loss {name} needs {lag.factor:.2g} times the steps of full fine-tuning{bounds}, by "
        "the regret and the slope of the curve there. Dashed: how many at its evaluations before."
    )
    trend = {
        "closes": "The gap closes towards the end.",
        "widens": "The gap widens towards the end.",
        "unclear": "Whether the gap closes or widens towards the end cannot be told.",
        None: "",
    }[lag.trend]
    return " ".join(filter(None, (how, said, trend, lag.note)))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if part > 0 and whole > 0 and math.isfinite(part / whole) else None


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
