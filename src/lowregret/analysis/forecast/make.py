"""A comparison's forecast, from the pilots in its folder. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lowregret.analysis.forecast.banks import Bank
from lowregret.analysis.forecast.model import RegretModel
from lowregret.analysis.forecast.pilots import FULL, Pilots, Room, best_curve, longest, pilot_steps, pilots_at
from lowregret.analysis.numbers import percent
from lowregret.analysis.tolerance import tolerance_share
from lowregret.errors import RecordsError, SpecError
from lowregret.runs.bank import BankEntry
from lowregret.runs.forecast import MOST_SHARE, Forecast
from lowregret.spec import CompareSpec, FullFT, LoRA

USUAL_TRIALS = 5
"""Of a method's search, beside those of the other seeds."""
_FEWEST = 2
"""Evaluations of a pilot below which its curve is a point and no more."""


def make_forecast(spec: CompareSpec, entry: BankEntry, bank: Bank, share: float) -> Forecast:
    """What the regret of each LoRA is expected to be, by pilots of at most this share of a run.

    Raises SpecError when full fine-tuning by AdamW over float32 is not among the methods; RecordsError when a method
    has no pilot, or no rate at which its loss fell, and when the bank knows no pilots of that length: a number without
    an interval is never given.
    """
    require_reference(spec)
    loras = [method.name for method in spec.methods if isinstance(method, LoRA)]
    step = _step(entry, [FULL, *loras], share)
    known = [other for other in bank.entries if other.identity != entry.identity]
    model = _bounded(
        RegretModel.of(known, step / entry.steps),
        f" with pilots of {percent(step / entry.steps)} of a run",
        "Ask for longer ones by --budget 20%, or add",
    )
    found: dict[str, Pilots] = {}
    for name in loras:
        pilots = pilots_at(entry, name, step)
        if pilots is None:
            raise RecordsError(_nothing_learned(entry, step, share))
        found[name] = pilots
    first = next(iter(found.values()))
    learned = model.learned(first)
    tolerance = tolerance_share(spec, entry.base_nll, learned)
    forecasts = tuple(model.forecast(name, pilots, tolerance) for name, pilots in found.items())
    return Forecast(
        forecasts=forecasts,
        tolerance=tolerance,
        learned=learned,
        learned_interval=model.learned_interval(first),
        step=step,
        steps=entry.steps,
        cost=_cost(spec, entry, share),
        bank=_bank_words(model, bank),
        notes=(
            *_cut_short(entry, [FULL, *loras], step, share),
            *_not_begun(found),
            *_notes(spec, first, [found.method for found in forecasts if found.far]),
        ),
    )


def make_free_forecast(spec: CompareSpec, rooms: Mapping[str, Room], steps: int, identity: str, bank: Bank) -> Forecast:
    """What the regret of each LoRA is expected to be by its room alone, before any training.

    Raises SpecError when full fine-tuning by AdamW over float32 is not among the methods, and for a tolerance of its
    loss, of which nothing is known yet; RecordsError when the bank knows too little for an interval.
    """
    require_reference(spec)
    if spec.tolerance_of == "loss":
        raise SpecError(
            "tolerance_of loss: without pilots nothing is known of full fine-tuning's loss. Give --tolerance-of "
            "learned, or a --budget such as 10%."
        )
    others = [entry for entry in bank.entries if entry.identity != identity]
    model = _bounded(RegretModel.of(others, None), "", "Add")
    forecasts = tuple(model.forecast(name, room, spec.tolerance) for name, room in rooms.items())
    return Forecast(
        forecasts=forecasts,
        tolerance=spec.tolerance,
        step=0,
        steps=steps,
        cost=0.0,
        bank=_bank_words(model, bank),
        notes=tuple(_notes(spec, None, [found.method for found in forecasts if found.far])),
    )


def _bounded(model: RegretModel | None, which: str, remedy: str) -> RegretModel:
    if model is None or not model.has_bounds():
        pairs = 0 if model is None else len(model.regret.errors)
        raise RecordsError(
            f"the bank has comparisons of {pairs} pairs of base and data{which}, and an interval takes 9. {remedy} "
            "finished comparisons: lowregret bank add RUN."
        )
    return model


def _bank_words(model: RegretModel, bank: Bank) -> str:
    return f"{model.cases} LoRAs of {model.comparisons} comparisons ({bank.words()} in the bank)"


def require_reference(spec: CompareSpec) -> None:
    """SpecError when full fine-tuning by AdamW over float32 is not among the methods."""
    if not spec.reference.plain:
        raise SpecError(
            f"a forecast is of the regret against {FULL}, which all comparisons of the bank have: add it to --methods."
        )


def _step(entry: BankEntry, names: Sequence[str], share: float) -> int:
    methods = [entry.method(name) for name in names]
    missing = [name for name, method in zip(names, methods, strict=True) if method is None or not longest(method)]
    curves = [longest(method) for method in methods if method is not None]
    step = None if missing else pilot_steps(curves, share, entry.steps)
    if step is None:
        whose = f"{missing[0]} has none" if missing else f"none is within {percent(share)} of the run"
        raise RecordsError(
            f"a forecast needs an evaluation of each method in the pilots, and {whose}: ask for longer "
            f"pilots (--budget {MOST_SHARE:.0%}), or in another --out for more evaluations (--evals 12)."
        )
    return step


def _cut_short(entry: BankEntry, names: Sequence[str], step: int, share: float) -> list[str]:
    """Of pilots that end before the others, for none of their rates got further."""
    last = {
        name: pilot_steps([longest(method)], share, entry.steps) for name in names if (method := entry.method(name))
    }
    early = [name for name, found in last.items() if found == step]
    if len(early) == len(last):
        return []
    return [
        f"No learning rate that was tried of {', '.join(early)} got beyond step {step} (diverged, or still in "
        "training): all pilots are read up to there alone."
    ]


def _nothing_learned(entry: BankEntry, step: int, share: float) -> str:
    """Why there is nothing to be behind of, and what would change that."""
    full = entry.method(FULL)
    curve = None if full is None else best_curve(full, step)
    reached = (
        "" if curve is None else f": the best has {curve[step]:.4g} nats per token, and the base {entry.base_nll:.4g}"
    )
    longer = f", or ask for longer pilots (--budget {min(2 * share, 0.5):.0%})" if share < 0.5 else ""
    return (
        f"after {step} steps full fine-tuning has learned nothing at any learning rate tried{reached}, so there is "
        f"nothing that LoRA could lack. Where losses are above the base's, rates are too high: try lower ones "
        f"(--learning-rates, in another --out){longer}."
    )


def _not_begun(found: Mapping[str, Pilots]) -> list[str]:
    """Of LoRAs that are worse than the base by the pilots' end, at every rate."""
    worse = [name for name, pilots in found.items() if pilots.lora[pilots.step] >= pilots.base_nll]
    if not worse:
        return []
    return [
        f"At every learning rate tried {', '.join(worse)} is worse than the base by the pilots' end: what it may learn "
        "later, or at a lower rate, no pilot shows."
    ]


def _cost(spec: CompareSpec, entry: BankEntry, share: float) -> float:
    """Steps of all trials so far, each at most a pilot's, over those that a full comparison usually takes."""
    most = share * entry.steps * (1 + 1e-9)
    pilots = sum(
        max((step for step in curve.losses if step <= most), default=0)
        for method in entry.methods
        for curve in method.curves
    )
    whole = len(spec.methods) * (USUAL_TRIALS + spec.seeds - 1) * entry.steps
    return pilots / whole


def _notes(spec: CompareSpec, pilots: Pilots | None, far: Sequence[str]) -> list[str]:
    notes = []
    if pilots is not None and spec.optimizer.schedule != "constant":
        notes.append(
            f"The learning rate follows the schedule {spec.optimizer.schedule}, and the bank is of constant rates: a "
            "pilot is not a shorter run."
        )
    narrow = [m.name for m in spec.methods if isinstance(m, LoRA) and m.quantisation != "none"]
    if narrow:
        notes.append(
            f"The comparisons that come with lowregret are on bases of full precision: what a narrower base costs "
            f"{', '.join(narrow)} is known by the pilots alone."
        )
    others = [m.name for m in spec.methods if isinstance(m, FullFT) and m.name != FULL]
    if others:
        notes.append(f"Nothing is forecast of {', '.join(others)}: the bank is of LoRAs against {FULL}.")
    if pilots is not None and len(pilots.full) < _FEWEST:
        notes.append("One evaluation of each pilot: the lag cannot be told, and the regret is that of one moment.")
    if far:
        notes.append(f"Unlike what the bank has: {', '.join(far)}. The intervals are wider for it.")
    return notes
