"""A comparison's trials as they stood at a step, so that some of them are trained no further. Pure and torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lowregret.analysis.decided import at_the_end
from lowregret.analysis.learning_rate import SEARCH_SEED, at_step, search_loss
from lowregret.runs.records import PILOT, TrialRecord

Curves = Mapping[str, Mapping[int, float]]
"""Trial id → step → held-out loss."""
FIRST, SECOND = 0.2, 0.5
"""Shares of a trial's steps within which the first rungs lie."""


def rungs_of(evaluated: Sequence[int], steps: int) -> tuple[int, ...]:
    """The steps at which trials are compared: the last evaluations within a fifth and a half of the run, and the end.

    () when none is within a fifth.
    """
    first, second = (
        max((at for at in evaluated if 0 < at <= share * steps * (1 + 1e-9)), default=0) for share in (FIRST, SECOND)
    )
    return tuple(sorted({first, second, steps})) if first else ()


def as_of(records: Sequence[TrialRecord], curves: Curves, step: int, last: int) -> list[TrialRecord]:
    """The trials of the search's seed as if all had been of `step` steps, and of the last step those of other seeds.

    Whoever was not trained so far counts as stopped early: as worse than every trial that was. That is what it was
    stopped for at the rung before.
    """
    if step == last:
        return at_the_end(records)
    found = []
    for record in records:
        loss = curves.get(record.id, {}).get(step)
        if record.seed != SEARCH_SEED:
            continue
        if loss is not None and record.status != "failed":
            found.append(at_step(record, step, loss))
        elif record.status == "running" or record.put_aside:
            found.append(record.model_copy(update={"status": "pruned", "pruned_by": None, "error": PILOT}))
        elif record.status == "pruned":  # by a comparison that was not of this kind: it does not go on
            found.append(record.model_copy(update={"status": "diverged"}))
        elif record.status in ("diverged", "failed"):
            found.append(record)
        else:  # finished, and no evaluation at this step
            found.append(record)
    return found


def by_loss(view: Sequence[TrialRecord], method: str) -> list[TrialRecord]:
    """A method's trials that came as far as the view, the best first."""
    own = [record for record in view if record.method == method and record.seed == SEARCH_SEED]
    return sorted((record for record in own if math.isfinite(_loss(record))), key=lambda r: (_loss(r), r.learning_rate))


def _loss(record: TrialRecord) -> float:
    loss = search_loss(record)
    return math.inf if loss is None else loss


def best_loss(view: Sequence[TrialRecord], method: str) -> float:
    """Of a method's trials that came so far; infinite where none did."""
    return min((_loss(record) for record in by_loss(view, method)), default=math.inf)
