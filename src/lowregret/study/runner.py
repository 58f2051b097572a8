"""`lowregret compare`: ask the search for trials, run them, judge, and keep the winners.

The folder is the whole state: what was done is read from it, and what comes next is a pure function of what was done.
So a study that was killed at any moment goes on where it was and ends with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lowregret.analysis.forecast.banks import Bank
from lowregret.analysis.forecast.words import expected_lines
from lowregret.analysis.tolerance import tolerance_share
from lowregret.runs.forecast import shown_forecast
from lowregret.runs.lock import lock_run
from lowregret.runs.study import start_loss
from lowregret.runs.verdict import Verdict
from lowregret.spec import CompareSpec
from lowregret.study.decide.run import decide, require_rungs
from lowregret.study.observer import Observer, Silent
from lowregret.study.opened import opened
from lowregret.train.replies import Replying


def compare(
    spec: CompareSpec,
    out: str | Path,
    *,
    command: str = "lowregret.compare(...)",
    observer: Observer | None = None,
    bank: Bank | None = None,
) -> Verdict:
    """Answer "LoRA or full fine-tuning?" for a base and data, and leave the evidence in `out`.

    Started again with the same spec it goes on, and repeats at most the steps since the last checkpoint. With more
    seeds, methods, listed rates or held-out examples it trains what is missing (`runs.extension`). With `until_decided`
    and a bank its pilots are forecast by it. Raises LowregretError, or Interrupted after a clean stop.
    """
    watching = observer or Silent()
    if spec.until_decided and spec.steps is not None:  # before the folder is bound to a spec that cannot be decided so
        require_rungs(spec, spec.steps)
    with lock_run(Path(out)) as folder:
        with opened(spec, folder, command, watching) as comparison:
            for line in _expected(comparison.spec, folder, watching.say):
                watching.say(line)
            if spec.until_decided:
                verdict = decide(comparison, bank)
            else:
                comparison.train()
                verdict = comparison.judge()
            inputs = comparison.inputs
        Replying(folder, inputs, watching.say).write()
        return verdict


def _expected(spec: CompareSpec, folder: Path, say: Callable[[str], None]) -> list[str]:
    """What was forecast of it, beside its tolerance of now."""
    found = shown_forecast(folder, say)
    if found is None:
        return []
    if spec.tolerance_of == "learned":
        return expected_lines(found, spec.tolerance)
    base = start_loss(folder)
    if base is None or found.learned is None:
        return expected_lines(found, None)
    return expected_lines(found, tolerance_share(spec, base, found.learned))
