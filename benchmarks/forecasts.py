"""How well forecasts hold: on comparisons for fitting, each left out in turn, and on those held out by data or base.

    python -m benchmarks.bank --gsm8k FOLDER --out runs/bank      # hours: the comparisons
    python -m benchmarks.forecasts collect runs/bank              # into the bank that comes with lowregret
    python -m benchmarks.forecasts                                # docs/results/forecasts.json, and a table

Held-out cells are predicted by a model of those for fitting alone. A decision counts where the comparison settled it:
where the measured regret's own 95 % interval does not reach the tolerance.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bank import FINISHED
from benchmarks.curve_laws import LAWS, regret_by

from lowregret.analysis.forecast.banks import bundled_bank
from lowregret.analysis.forecast.entry import finished_entry
from lowregret.analysis.forecast.model import (
    MOST_UNSURE,
    Case,
    bent,
    carried_over,
    cases,
    expected,
    regret_features,
    room_features,
    straight,
)
from lowregret.analysis.forecast.pilots import Pilots
from lowregret.analysis.forecast.ridge import Known, Ridge
from lowregret.runs.bank import BankEntry, added, write_bank
from lowregret.runs.forecast import WIDE
from lowregret.strict_json import to_json

HERE = Path(__file__).parents[1]
BANK = HERE / "src" / "lowregret" / "analysis" / "forecast" / "bank.jsonl"
RESULT = HERE / "docs" / "results" / "forecasts.json"
SHARES = (0.1, 0.2)
TOLERANCE = 0.05
SURE = 0.9
"""The chance from which the command says a side of the tolerance."""


@dataclass(frozen=True)
class Taught(Pilots):
    """Pilots, and what no forecast goes by, for other data than made-up facts have an upper bound of it alone."""

    bits: float
    """That the data have to teach, by what the base does not know of them."""


@dataclass(frozen=True)
class Cell(Case):
    """A case whose bits are known."""

    pilots: Taught


Features = Callable[[Taught], tuple[float, ...]]
TRIED: Mapping[str, Features] = {
    "as it is: regret, room, learned": regret_features,
    "room alone, no pilots": room_features,
    "bits a parameter and placement, no pilots": lambda p: (_bits(p), float(p.attention_alone)),
    "the share learned alone": lambda p: (_learned(p),),
    "room, learned": lambda p: (*room_features(p), _learned(p)),
    "the pilots' regret alone": lambda p: (bent(p.regret()),),
    "the shift alone": lambda p: (_shift(p),),
    "shift, room, learned": lambda p: (_shift(p), *room_features(p), _learned(p)),
    "regret, bits, placement, learned": lambda p: (
        bent(p.regret()), _bits(p), float(p.attention_alone), _learned(p),
    ),
    "shift, bits, placement": lambda p: (_shift(p), _bits(p), float(p.attention_alone)),
    "lag, room, learned": lambda p: (_lag(p), *room_features(p), _learned(p)),
    "slope, room, learned": lambda p: (p.slope(), *room_features(p), _learned(p)),
    "as it is, with epochs and steps": lambda p: (*regret_features(p), math.log(p.epochs), math.log(p.steps)),
    **{
        f"the {law} law's regret, room, learned": lambda p, law=law: (
            bent(regret_by(law, p)), *room_features(p), _learned(p),
        )
        for law in LAWS
    },
}  # fmt: skip
"""What the model of the regret goes by, and what else was tried."""


def bits_of(entry: BankEntry) -> float:
    """Of the facts in the data of a comparison where they are known, else of the base's loss on one pass."""
    known = entry.fact_bits
    return entry.base_nll * entry.supervised_tokens / math.log(2) if known is None else known


def cells(entries: Sequence[BankEntry], share: float) -> list[Cell]:
    """The cases with their bits, which are those of their comparison."""
    bits = {entry.identity: bits_of(entry) for entry in entries}
    return [
        Cell(**{**vars(case), "pilots": Taught(**vars(case.pilots), bits=bits[case.comparison])})
        for case in cases(entries, share)
    ]


def _bits(pilots: Taught) -> float:
    return math.log(pilots.bits / pilots.parameters)


def _learned(pilots: Pilots) -> float:
    return pilots.learned() / pilots.base_nll


def _shift(pilots: Pilots) -> float:
    """How far FullFT's curve, shifted by the lag, lies above itself: its slope times the lag, in logarithms."""
    return bent(pilots.slope() / math.log(2) * _lag(pilots))


def _lag(pilots: Pilots) -> float:
    return math.log(min(max(pilots.lag() or 1.0, 0.25), 8.0))


def collect(folder: Path) -> None:
    """Add the finished comparisons of `benchmarks.bank` to the bundled bank."""
    found = bundled_bank()
    for file in sorted(folder.glob("*/verdict.json")):
        part = file.parent.name.partition(".")[0]
        found = added(found, finished_entry(file.parent).model_copy(update={"part": part}))
    write_bank(BANK, found)
    names = {file.parent.name for file in folder.glob("*/verdict.json")} | set(FINISHED.read_text().split())
    FINISHED.write_text("\n".join(sorted(names)) + "\n", encoding="utf-8")
    print(f"{BANK.name}: {len(found)} comparisons, {BANK.stat().st_size:,} bytes")


def known(found: Sequence[Cell], features: Features) -> list[Known]:
    """As the model takes them."""
    found = [case for case in found if case.error <= MOST_UNSURE]
    return [Known(features(case.pilots), bent(case.share), case.group) for case in found]


def judged(found: Sequence[Cell], model_of: Callable[[Cell], Ridge], features: Features) -> dict[str, float]:
    """What became of forecasts of these cases, in shares of what FullFT learns; those whose own regret is known too
    badly to judge one are counted, and no more."""
    all_of_them, found = len(found), [case for case in found if case.error <= MOST_UNSURE]
    predicted = [model_of(case).predict(features(case.pilots)) for case in found]
    middles = [expected(each.value) for each in predicted]
    chances = [model_of(case).chance_below(features(case.pilots), bent(TOLERANCE)) for case in found]
    bounded = [(each, case) for each, case in zip(predicted, found, strict=True) if math.isfinite(each.high)]
    told = [straight(each.high) - straight(each.low) <= WIDE for each in predicted]
    sure = [
        (chance >= SURE) == (case.share < TOLERANCE)
        for chance, case, says in zip(chances, found, told, strict=True)
        if says and not 1 - SURE < chance < SURE and abs(case.share - TOLERANCE) > case.error
    ]
    inside = [straight(each.low) <= case.share <= straight(each.high) for each, case in bounded]
    settled = [
        (middle < TOLERANCE) == (case.share < TOLERANCE)
        for middle, case in zip(middles, found, strict=True)
        if abs(case.share - TOLERANCE) > case.error
    ]
    return {
        "cells": all_of_them,
        "judged": len(found),
        "told": sum(told),
        "said to be on one side": len(sure),
        "of those right": sum(sure),
        "brier": statistics.fmean(
            (chance - (case.share < TOLERANCE)) ** 2 for chance, case in zip(chances, found, strict=True)
        ),
        "coverage": statistics.fmean(inside) if inside else math.nan,
        "groups": len({case.group for case in found}),
        "mean absolute error": statistics.fmean(abs(m - case.share) for m, case in zip(middles, found, strict=True)),
        **carried_over(found),
        **{
            f"the {law} law alone": statistics.fmean(abs(regret_by(law, case.pilots) - case.share) for case in found)
            for law in LAWS
        },
        "width": statistics.median(straight(p.high) - straight(p.low) for p, _ in bounded) if bounded else math.nan,
        "settled": len(settled),
        "right": sum(settled),
    }


def measured(entries: Sequence[BankEntry], share: float) -> dict[str, Any]:
    """Of one length of pilots."""
    parts = {part: [e for e in entries if e.part == part] for part in ("fit", "data", "base")}
    fit, every = cells(parts["fit"], share), cells(entries, share)

    def left_out(some: Sequence[Cell], features: Features) -> dict[str, float]:
        models = {
            group: Ridge(known([other for other in some if other.group != group], features))
            for group in {case.group for case in some}
        }
        return judged(some, lambda case: models[case.group], features)

    result: dict[str, Any] = {
        "fit, each group left out": {name: left_out(fit, features) for name, features in TRIED.items()},
        "all, each group left out": left_out(every, regret_features),
    }
    whole = Ridge(known(fit, regret_features))
    for part in ("data", "base"):
        found = cells(parts[part], share)
        if found:
            result[f"held out by {part}"] = judged(found, lambda case: whole, regret_features)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", nargs="?", choices=("collect",))
    parser.add_argument("folder", nargs="?", type=Path)
    asked = parser.parse_args()
    if asked.action == "collect":
        if asked.folder is None:
            parser.error("collect: name the folder of benchmarks.bank")
        collect(asked.folder)
        return 0
    entries = bundled_bank()
    found = {f"{share:.0%}": measured(entries, share) for share in SHARES}
    result = {"comparisons": {part: sum(e.part == part for e in entries) for part in ("fit", "data", "base")}, **found}
    RESULT.write_text(to_json(_rounded(result), indent=1) + "\n", encoding="utf-8")
    for share, parts in found.items():
        for part, rows in parts.items():
            for name, row in rows.items() if part.startswith("fit") else [("as it is: regret, room, learned", rows)]:
                print(
                    f"{share} {part:26} {name:26} {row['cells']:4.0f} cells, {row['judged']:.0f} judged, of "
                    f"{row['groups']:2.0f} groups, {row['told']:.0f} told, "
                    f"{row['coverage']:.0%} inside (width {row['width']:.2f}), error "
                    f"{row['mean absolute error']:.4f} (carried over {row['carried over']:.4f}, constant "
                    f"{row['constant']:.4f}), {row['right']:.0f} of {row['settled']:.0f} decisions; "
                    f"{row['of those right']:.0f} of {row['said to be on one side']:.0f} said surely, Brier "
                    f"{row['brier']:.3f}"
                )
    return 0


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return (None if not math.isfinite(value) else round(value, 4)) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
