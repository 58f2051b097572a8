"""How a comparison was decided, in sentences. Pure and torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from lowregret.analysis.numbers import nats
from lowregret.analysis.spending import ERROR
from lowregret.runs.decision import Look


def rules(rungs: Sequence[int], seeds: int) -> list[str]:
    """What it goes by, for the report."""
    halfway = "" if len(rungs) < 3 else f" At step {rungs[1]} its best rate and the rates below it are compared again."
    return [
        f"Each method's learning rate is searched for with seed 0 in pilots of {rungs[0]} of {rungs[-1]} steps, as in "
        "a full comparison; LoRAs whose loss is then by more than the tolerance above the best LoRA's are left out, "
        f"and of the others all but the best and the largest.{halfway}",
        "To the end go the best rate of the best LoRA and of full fine-tuning, and the neighbours of that rate which "
        "could change the decision: full fine-tuning's where the regret is low, LoRA's where it is high.",
        f"Seeds are added one at a time, from 2 to {seeds}, and the verdict is looked at after each. At the last one "
        "the neighbours of both are there.",
        f"The looks share an error of {ERROR:.0%} by O'Brien and Fleming's spending function: none of their intervals "
        "misses the truth with a chance above it.",
    ]


def look_words(look: Look) -> str:
    """A look, in a line."""
    if look.interval is None:
        return f"look with {look.seeds} seeds: nothing can be settled yet"
    low, high = (nats(value, sign=True) for value in look.interval)
    what = "not settled" if look.ruling == "inconclusive" else f"settled: {look.ruling}"
    return (
        f"look with {look.seeds} seeds: {what}; the regret of {look.method} lies between {low} and {high} nats at "
        f"{1 - look.error:.1%}"
    )
