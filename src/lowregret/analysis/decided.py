"""The trials that the verdict of a comparison rests on which stopped when it was decided. Pure and torch-free."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lowregret.analysis.learning_rate import SEARCH_SEED
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
