"""A run folder read into one frozen object, and the few facts that figures and text both need from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from lowregret.analysis.learning_rate import SEARCH_SEED, best_rate
from lowregret.errors import RecordsError, SpecError
from lowregret.runs.atomic import read_json, read_record
from lowregret.runs.metrics import read_metrics
from lowregret.runs.records import Metric, TrialRecord
from lowregret.runs.verdict import MethodResult, Verdict
from lowregret.spec import CompareSpec, FullFT, Method, build
from lowregret.spec.conventions import DEFAULT_CONVENTION
from lowregret.spec.method import DEFAULT_ALPHA, DEFAULT_TARGETS, short


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
    """The command line that made the folder, as its spec.json gives it."""
    version: str
    """The lowregret that made the folder."""
    spec: CompareSpec
    trials: tuple[TrialRecord, ...]
    """In the order of the spec's methods, then by learning rate and seed."""
    metrics: Mapping[str, tuple[Metric, ...]]
    """By trial id."""
    verdict: Verdict

    @property
    def rewarded(self) -> bool:
        """Whether the objective is a reward, not a loss."""
        return self.spec.objective.kind == "rl"

    @property
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


def load_study(folder: Path) -> StudyRecords:
    """Read a finished study's folder.

    Raises RecordsError, naming the file and the remedy, when a record is missing, damaged or of another kind of run.
    """
    head = read_json(folder / "spec.json")
    if not isinstance(head, dict) or not isinstance(head.get("spec"), dict):
        raise RecordsError(f"{folder / 'spec.json'}: no field 'spec'. Name the folder that `lowregret compare` wrote.")
    try:
        spec = build(CompareSpec, head["spec"], source=str(folder / "spec.json"))
    except SpecError as error:
        raise RecordsError(f"{error}\nName a folder that this version of `lowregret compare` wrote.") from error
    if not (folder / "verdict.json").exists():
        raise RecordsError(f"{folder}: no verdict.json yet. Run the same `lowregret compare` again to finish it.")
    files = sorted((folder / "trials").glob("*/trial.json"))
    order = {method.name: index for index, method in enumerate(spec.methods)}
    trials = sorted(
        (read_record(TrialRecord, file) for file in files),
        key=lambda trial: (order.get(trial.method, len(order)), trial.method, trial.learning_rate, trial.seed),
    )
    metrics = {trial.id: tuple(read_metrics(folder / "trials" / trial.id / "metrics.jsonl")) for trial in trials}
    return StudyRecords(
        folder=folder,
        command=str(head.get("command", "")),
        version=str(head.get("lowregret", "")),
        spec=spec,
        trials=tuple(trials),
        metrics=MappingProxyType(metrics),
        verdict=read_record(Verdict, folder / "verdict.json"),
    )


_INITS = {"pissa": "PiSSA", "olora": "OLoRA", "orthogonal": "orthogonal init"}


def label(method: Method) -> str:
    """A method as a reader would say it, defaults left out; two methods of different names have different labels."""
    if isinstance(method, FullFT):
        return "Full fine-tuning"
    parts = [f"rank {method.rank}"]
    if method.targets != DEFAULT_TARGETS:
        parts.append(" + ".join(method.targets))
    parts += [
        said
        for differs, said in (
            (method.init != "uniform", _INITS.get(method.init, method.init)),
            (method.scaling == "alpha/sqrt(r)", "rsLoRA"),
            (method.dora, "DoRA"),
            (method.b_rate != 1, f"LoRA+ {short(method.b_rate)}"),
            (method.a_rate != 1, f"A's rate × {short(method.a_rate)}"),
            (method.init_scale != 1, f"initial A × {short(method.init_scale)}"),
            (method.alpha != DEFAULT_ALPHA, f"alpha {short(method.alpha)}"),
            (method.dropout != 0, f"dropout {short(method.dropout)}"),
            (method.convention != DEFAULT_CONVENTION, method.convention),
        )
        if differs
    ]
    return f"LoRA ({', '.join(parts)})"


def finished(trial: TrialRecord) -> bool:
    """Whether a trial ran to its end and has a held-out loss or reward."""
    return trial.status == "finished" and trial.test_loss is not None and math.isfinite(trial.test_loss)
