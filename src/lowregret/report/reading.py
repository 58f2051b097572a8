"""A run folder read into one frozen object, and the few facts that figures and text both need from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lowregret.analysis.learning_rate import SEARCH_SEED, best_rate
from lowregret.analysis.settle import comparing_command
from lowregret.errors import RecordsError, SpecError
from lowregret.report.charts.words import label
from lowregret.runs.atomic import as_record, read_json
from lowregret.runs.extension import EXTENDED
from lowregret.runs.files import DECISION, METRICS, SPEC, VERDICT
from lowregret.runs.forecast import Forecast, shown_forecast, unsaid
from lowregret.runs.lock import stored_spec
from lowregret.runs.metrics import read_metrics
from lowregret.runs.records import Metric, TrialRecord
from lowregret.runs.spelling import is_older, respelled
from lowregret.runs.study import read_trials, trial_folder
from lowregret.runs.verdict import MethodResult, Verdict
from lowregret.spec import CompareSpec, build


@dataclass(frozen=True)
class Bracket:
    """A method's best learning rate and the nearest ones on both sides that did worse; None where none did."""

    best: float
    below: float | None
    above: float | None


@dataclass(frozen=True)
class StudyRecords:
    """Everything a report may use: what was asked, what was run, what was found."""

    folder: Path
    command: str
    """The command line that asked for what the folder has: the last that extended it, or the first; `compare` where
    that was a forecast, which trains the pilots alone."""
    version: str
    """The lowregret that made the folder."""
    spec: CompareSpec
    trials: tuple[TrialRecord, ...]
    """In the order of the spec's methods, then by learning rate and seed."""
    metrics: Mapping[str, tuple[Metric, ...]]
    """By trial id."""
    verdict: Verdict
    forecast: Forecast | None = None
    """What was expected before it was measured; None where nobody asked."""

    @property
    def rewarded(self) -> bool:
        """Whether the objective is a reward, not a loss."""
        return self.spec.objective.kind == "rl"

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Names of all methods: those asked for first, then any other that the records name."""
        asked = [method.name for method in self.spec.methods]
        found = [result.name for result in self.verdict.methods] + [trial.method for trial in self.trials]
        return tuple(dict.fromkeys(asked + found))

    def label(self, name: str) -> str:
        """A method as a reader would say it: `LoRA (rank 16)` for `lora:16`; an unknown name as it stands."""
        return next((label(method) for method in self.spec.methods if method.name == name), name)

    def result(self, name: str) -> MethodResult | None:
        """What the verdict says about a method."""
        return next((result for result in self.verdict.methods if result.name == name), None)

    def search_trials(self, name: str) -> tuple[TrialRecord, ...]:
        """The trials of a method that the search for its learning rate ran, by learning rate."""
        return tuple(trial for trial in self.trials if trial.method == name and trial.seed == SEARCH_SEED)

    def trials_at_best(self, name: str) -> tuple[TrialRecord, ...]:
        """The finished trials, one a seed, at a method's best learning rate; none when it has no best one."""
        result = self.result(name)
        if result is None or result.best_learning_rate is None:
            return ()
        best = result.best_learning_rate
        return tuple(
            trial
            for trial in self.trials
            if trial.method == name and finished(trial) and math.isclose(trial.learning_rate, best, rel_tol=1e-9)
        )

    def bracket(self, name: str) -> Bracket | None:
        """How far the search surrounds a method's best learning rate; None when no trial finished."""
        found = best_rate(self.search_trials(name))
        if found.learning_rate is None:
            return None
        return Bracket(best=found.learning_rate, below=found.lower, above=found.upper)


class _Metrics(Mapping[str, tuple[Metric, ...]]):
    """The curves of a folder's trials, each read when it is asked for: a page draws those at the best rates alone."""

    def __init__(self, folder: Path, trials: Sequence[str]) -> None:
        self._folder, self._trials = folder, dict.fromkeys(trials)

    def __getitem__(self, trial: str) -> tuple[Metric, ...]:
        if trial not in self._trials:
            raise KeyError(trial)
        return tuple(read_metrics(trial_folder(self._folder, trial) / METRICS))

    def __iter__(self) -> Iterator[str]:
        return iter(self._trials)

    def __len__(self) -> int:
        return len(self._trials)


def load_study(folder: Path, say: Callable[[str], None] = unsaid) -> StudyRecords:
    """Read a finished study's folder; a forecast in it that is damaged is said.

    Raises RecordsError, naming the file and the remedy, when a record is missing, damaged or of another kind of run.
    """
    head = stored_spec(folder / SPEC)
    try:
        spec = build(CompareSpec, head["spec"], source=str(folder / SPEC))
    except SpecError as error:
        raise RecordsError(f"{error}\nName a folder that this version of `lowregret compare` wrote.") from error
    if not (folder / VERDICT).exists():
        raise RecordsError(f"{folder}: no {VERDICT} yet. Run the same `lowregret compare` again to finish it.")
    order = {method.name: index for index, method in enumerate(spec.methods)}
    trials = sorted(
        read_trials(folder),
        key=lambda trial: (order.get(trial.method, len(order)), trial.method, trial.learning_rate, trial.seed),
    )
    verdict = stored_verdict(folder, head, spec)
    decided = True if verdict.decision is not None else False if (folder / DECISION).exists() else None
    asked = str([head, *(head.get(EXTENDED) or ())][-1].get("command", ""))
    return StudyRecords(
        folder=folder,
        command=comparing_command(asked, decided=decided),
        version=str(head.get("lowregret", "")),
        spec=spec,
        trials=tuple(trials),
        metrics=_Metrics(folder, [trial.id for trial in trials]),
        verdict=verdict,
        forecast=shown_forecast(folder, say),
    )


def stored_verdict(folder: Path, head: Mapping[str, Any], spec: CompareSpec) -> Verdict:
    """verdict.json with today's names of methods, of a folder whose spec.json says `head`."""
    path = folder / VERDICT
    stored = read_json(path)
    return as_record(Verdict, respelled(stored, spec.methods) if is_older(head.get("lowregret")) else stored, path)


def finished(trial: TrialRecord) -> bool:
    """Whether a trial ran to its end and has a held-out loss or reward."""
    return trial.status == "finished" and trial.test_loss is not None and math.isfinite(trial.test_loss)


def cost_of(result: MethodResult) -> tuple[float, float, float, float]:
    """Seconds alone, peak bytes, trainable parameters and checkpoint bytes of one trial."""
    seconds = result.seconds if result.alone_seconds is None else result.alone_seconds
    return (seconds, result.peak_memory_bytes, result.trainable_parameters, result.checkpoint_bytes)
