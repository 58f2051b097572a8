"""`lowregret forecast`: train every trial of a search a part of its way, and say what the regret will be.

The folder is that of a comparison: `lowregret compare` with the same spec goes on from where the pilots stand.
"""

from __future__ import annotations

import math
from pathlib import Path

from lowregret.analysis.forecast.banks import Bank
from lowregret.analysis.forecast.entry import entry_so_far
from lowregret.analysis.forecast.make import make_forecast, require_reference
from lowregret.errors import SpecError
from lowregret.runs.atomic import write_json
from lowregret.runs.files import FORECAST
from lowregret.runs.forecast import Forecast
from lowregret.runs.lock import lock_run
from lowregret.spec import RL, CompareSpec
from lowregret.study.observer import Observer, Silent
from lowregret.study.opened import opened
from lowregret.train.schedule import eval_steps


def forecast(
    spec: CompareSpec,
    out: str | Path,
    *,
    share: float,
    bank: Bank,
    command: str = "lowregret.forecast(...)",
    observer: Observer | None = None,
) -> Forecast:
    """What a comparison's regret will be, by pilots of at most `share` of each trial's steps.

    Started again it goes on; with another share its trials go on from where they are. Raises SpecError with rewards,
    and when no evaluation is that early; else as `runner.compare`.
    """
    if isinstance(spec.objective, RL):
        raise SpecError(
            "objective: the bank is of supervised fine-tuning, and no regret in reward is forecast from it."
        )
    if spec.steps is not None:  # before the folder is bound to a spec of which nothing can be forecast
        pilot_step(spec, spec.steps, share)
    require_reference(spec)
    with (
        lock_run(Path(out)) as folder,
        opened(
            spec, folder, command, observer or Silent(), until=lambda steps: pilot_step(spec, steps, share)
        ) as comparison,
    ):
        comparison.train(until=pilot_step(comparison.spec, comparison.inputs.steps, share))
        found = make_forecast(comparison.spec, entry_so_far(folder), bank, share)
        write_json(folder / FORECAST, found)
        return found


def pilot_step(spec: CompareSpec, steps: int, share: float) -> int:
    """The last evaluation within a share of so many steps; SpecError when there is none."""
    every = eval_steps(spec.evals, steps)
    early = [step for step in every if step <= share * steps * (1 + 1e-9)]
    if early:
        return max(early)
    first = math.ceil(100 * min(every) / steps)
    longer = f", or for pilots of {first}% (--budget {first}%)" if first <= 50 else ""
    raise SpecError(
        f"no held-out evaluation is within {share:.0%} of the {steps} steps: the first is after step {min(every)}. Ask "
        f"for earlier ones (--evals 12, or a list of steps; in another --out where this one has begun){longer}."
    )
