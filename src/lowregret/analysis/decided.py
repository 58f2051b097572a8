"""The trials that the verdict of a comparison rests on which stopped when it was decided, and what that verdict says
of how it was decided. Pure and torch-free."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lowregret.analysis.learning_rate import SEARCH_SEED
from lowregret.analysis.numbers import nats
from lowregret.runs.decision import Decision
from lowregret.runs.records import PILOT, TrialRecord


def at_the_end(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Those that finished, and the search's others as what they are beside them: one that was not trained to its end
    was stopped early, because of what it was at the rung before, and one that another rule has stopped does not go on.
    """
    found = []
    for record in records:
        if record.status != "finished" and record.seed != SEARCH_SEED:
            continue
        if record.status == "running" or record.put_aside:
            record = record.model_copy(update={"status": "pruned", "pruned_by": None, "error": PILOT})
        elif record.status == "pruned":
            record = record.model_copy(update={"status": "diverged"})
        found.append(record)
    return found


def judged_records(records: Sequence[TrialRecord], methods: Collection[str], seeds: int) -> list[TrialRecord]:
    """What a look with so many seeds is at: the trials of these methods, with further seeds that came to nothing."""
    other = [r for r in records if r.status in ("diverged", "failed") and r.seed != SEARCH_SEED]
    return [r for r in (*at_the_end(records), *other) if r.method in methods and r.seed < seeds]


def decided_reasons(decision: Decision, seeds: int) -> list[str]:
    """What a verdict's reasons end with: the looks, and what was left out; [] of a decision without looks."""
    if not decision.looks:
        return []
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
        f"{took} {decision.steps:,} steps, {decision.steps / max(decision.usual_steps, 1):.0%} of those that a full "
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
