"""`lowregret forecast`: train every trial of a search a part of its way, and say what the regret will be.

The folder is that of a comparison: `lowregret compare` with the same spec goes on from where the pilots stand.
"""

from __future__ import annotations

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
from lowregret.study.opened import OpenedComparison, opened
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
    require_reference(spec)
    with (
        lock_run(Path(out)) as folder,
        opened(spec, folder, command, observer or Silent()) as comparison,
    ):
        return forecast_by_pilots(comparison, share, bank)


def forecast_by_pilots(comparison: OpenedComparison, share: float, bank: Bank) -> Forecast:
    """Train the pilots that are missing, and keep what they say in the folder."""
    spec, steps = comparison.spec, comparison.inputs.steps
    early = [step for step in eval_steps(spec.evals, steps) if step <= share * steps]
    if not early:
        first = min(eval_steps(spec.evals, steps))
        raise SpecError(
            f"no held-out evaluation is within {share:.0%} of the {steps} steps: the first is after step {first}. Ask "
            f"for more (--evals 12), or for pilots of {first / steps:.0%} (--budget {100 * first / steps:.0f}%)."
        )
    comparison.train(until=max(early))
    found = make_forecast(spec, entry_so_far(comparison.folder), bank, share)
    write_json(comparison.folder / FORECAST, found)
    return found
