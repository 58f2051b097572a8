"""How a comparison was decided, in sentences. Pure and torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from lowregret.analysis.numbers import nats
from lowregret.analysis.spending import ERROR
from lowregret.runs.decision import Decision, Look
from lowregret.runs.verdict import Verdict


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


def sentences(decision: Decision, verdict: Verdict, seeds: int) -> list[str]:
    """For the verdict's reasons."""
    said = [_looks(decision, seeds)]
    method = decision.looks[-1].method
    if decision.bound == "above":
        said.append(
            f"The regret is at most that: the neighbours of {method}'s learning rate were not trained to their end, "
            "since a better rate could only lower it."
        )
    if decision.bound == "below":
        said.append(
            "The regret is at least that: the neighbours of full fine-tuning's learning rate were not trained to their "
            "end, since a better rate could only raise it."
        )
    if decision.left_out:
        names = "; ".join(f"{found.method} ({found.reason})" for found in decision.left_out)
        said.append(f"Trained no further, for they were not expected to change the decision: {names}.")
    took = "The trials of all methods together took" if decision.left_out else "That took"
    said.append(
        f"{took} {decision.steps:,} steps, {decision.steps / decision.usual_steps:.0%} of those that a full "
        "comparison usually takes. The same command without --until-decided goes on from here and measures what was "
        "left out."
    )
    return said


def _looks(decision: Decision, seeds: int) -> str:
    last = decision.looks[-1]
    count = len(decision.looks)
    if last.interval is None:
        return (
            "No error was left for another look: what earlier ones could say has been said. Run the same command "
            "without --until-decided to judge by all seeds at once."
        )
    low, high = (nats(value, sign=True) for value in last.interval)
    found = f"with {last.seeds} of at most {seeds} seeds its interval is {low} to {high} nats at {1 - last.error:.1%}"
    how = "It was decided at" if decision.settled else "It was not decided by"
    return (
        f"{how} look {count}: {found}. A settled verdict is wrong with a chance of at most {decision.error:.0%} over "
        f"all looks, of which {decision.spent:.1%} has been spent."
    )
