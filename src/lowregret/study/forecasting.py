"""`lowregret forecast`: train every trial of a search a part of its way, and say what the regret will be.

The folder is that of a comparison: `lowregret compare` with the same spec goes on from where the pilots stand.
"""

from __future__ import annotations

import math
from pathlib import Path

from lowregret.analysis.forecast.banks import Bank
from lowregret.analysis.forecast.entry import entry_so_far
from lowregret.analysis.forecast.make import make_forecast, make_free_forecast, require_reference
from lowregret.analysis.forecast.pilots import Room, attention_alone
from lowregret.analysis.numbers import percent
from lowregret.errors import SpecError
from lowregret.runs.atomic import write_json
from lowregret.runs.files import FORECAST, VERDICT
from lowregret.runs.forecast import MOST_SHARE, Forecast, require_share, shown_forecast
from lowregret.runs.lock import lock_run
from lowregret.spec import RL, CompareSpec
from lowregret.study.observer import Observer, Silent
from lowregret.study.opened import OpenedComparison, opened
from lowregret.train.schedule import eval_steps

_MOST_EVALS = 32
"""Of a trial, where a number of them is a remedy."""


def forecast(
    spec: CompareSpec,
    out: str | Path,
    *,
    share: float | None,
    bank: Bank,
    command: str = "lowregret.forecast_regret(...)",
    observer: Observer | None = None,
) -> Forecast:
    """What a comparison's regret will be, by pilots of at most `share` of each trial's steps, or by none.

    Started again it goes on; with another share its trials go on from where they are. Without pilots nothing is
    trained: the base's held-out loss is measured, and kept. The folder keeps the forecast by the longest pilots, and
    none that was made after the regret was measured. Raises SpecError with rewards, and when no evaluation is
    that early; else as `runner.compare`.
    """
    if isinstance(spec.objective, RL):
        raise SpecError(
            "objective: the bank is of supervised fine-tuning, and no regret in reward is forecast from it."
        )
    if share is not None:
        share = require_share(share, f"share {share!r}", "None", "0.2")
    # Before the folder is bound to a spec of which nothing can be forecast.
    if share is not None and spec.steps is not None:
        pilot_step(spec, spec.steps, share)
    require_reference(spec)
    with (
        lock_run(Path(out)) as folder,
        opened(
            spec,
            folder,
            command,
            observer or Silent(),
            until=lambda steps: 0 if share is None else pilot_step(spec, steps, share),
        ) as comparison,
    ):
        if share is None:
            found = _free(comparison, bank)
        else:
            comparison.train(until=pilot_step(comparison.spec, comparison.inputs.steps, share))
            found = make_forecast(comparison.spec, entry_so_far(folder), bank, share)
        there = shown_forecast(folder, comparison.watching.say)
        if not (folder / VERDICT).exists() and (there is None or there.step <= found.step):
            write_json(folder / FORECAST, found)
        return found


def _free(comparison: OpenedComparison, bank: Bank) -> Forecast:
    """Of a comparison of which nothing has been trained."""
    inputs = comparison.inputs
    rooms = {
        name: Room(parameters=parameters, attention_alone=attention_alone(name))
        for name, parameters in inputs.adapter_parameters(comparison.spec.methods).items()
    }
    return make_free_forecast(comparison.spec, rooms, inputs.steps, inputs.identity, bank)


def pilot_step(spec: CompareSpec, steps: int, share: float) -> int:
    """The last evaluation within a share of so many steps; SpecError when there is none."""
    every = eval_steps(spec.evals, steps)
    early = [step for step in every if step <= share * steps * (1 + 1e-9)]
    if early:
        return max(early)
    first = math.ceil(100 * min(every) / steps)
    remedies = [f"for pilots of {first}% (--budget {first}%)"] if first <= 100 * MOST_SHARE else []
    if share * steps >= 1:  # else the first step is later than that
        enough = next((n for n in range(2, _MOST_EVALS) if min(eval_steps(n, steps)) <= share * steps), None)
        more = "a list of steps" if enough is None else f"--evals {enough}, or a list of steps"
        remedies.append(f"for earlier ones ({more}; in another --out where this one has begun)")
    raise SpecError(
        f"no held-out evaluation is within {percent(share)} of the {steps} steps: the first is after step "
        f"{min(every)}. Ask {', or '.join(remedies) or 'for more --steps'}."
    )
