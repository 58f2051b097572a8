"""`lowregret compare`: ask the search for trials, run them, judge, and keep the winners.

The folder is the whole state: what was done is read from it, and what comes next is a pure function of what was done.
So a study that was killed at any moment goes on where it was and ends with the same numbers.
"""

from __future__ import annotations

import gc
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from lowregret.analysis.numbers import nats
from lowregret.analysis.regret import judge
from lowregret.engine import Engine
from lowregret.engine.export import export_policy
from lowregret.environment import environment
from lowregret.errors import ModelError, RecordsError
from lowregret.models.targets import find_targets
from lowregret.records import (
    ExampleLosses,
    Metric,
    TrialRecord,
    Verdict,
    make_folder,
    read_json,
    read_metrics,
    read_record,
    write_json,
    writing,
)
from lowregret.spec import CompareSpec, FullFT, LoRA, TrialSpec
from lowregret.study.search import describe, next_trials, total_estimate
from lowregret.train.checkpoint import delete_checkpoint
from lowregret.train.folder import claim, opened
from lowregret.train.interrupt import stop_requests
from lowregret.train.job import Opened, make_engine, open_inputs
from lowregret.train.sft import EXAMPLES, METRICS, Hooks, Interrupted, evaluate, mean_nll
from lowregret.train.trial import RECORD, Task, record_trial

BASE = "base.json"
VERDICT = "verdict.json"
ENVIRONMENT = "environment.json"


class Observer(Protocol):
    """Who watches a study: the live table, plain lines, or nobody."""

    def say(self, line: str) -> None:
        """Something found or filled in before the first trial."""

    def trial_started(self, trial: TrialSpec, done: int, expected: int) -> None:
        """`done` trials have ended; `expected` is a guess at how many there will be in all."""

    def step(self, step: int, steps: int, metric: Metric) -> None:
        """A step of the current trial."""

    def trial_ended(self, record: TrialRecord) -> None:
        """The current trial has its final record."""


class Silent:
    """Nobody watches."""

    def say(self, line: str) -> None: ...
    def trial_started(self, trial: TrialSpec, done: int, expected: int) -> None: ...
    def step(self, step: int, steps: int, metric: Metric) -> None: ...
    def trial_ended(self, record: TrialRecord) -> None: ...


def compare(
    spec: CompareSpec,
    out: str | Path,
    *,
    command: str = "lowregret.compare(...)",
    observer: Observer | None = None,
) -> Verdict:
    """Answer "LoRA or full fine-tuning?" for a base and data, and leave the evidence in `out`.

    Started again with the same spec it goes on, and repeats at most the steps since the last checkpoint. Raises
    LowregretError, or Interrupted after a clean stop.
    """
    watching = observer or Silent()
    with opened(Path(out)) as folder, stop_requests(watching.say) as should_stop:
        session = environment()
        inputs = open_inputs(spec, watching.say)
        priors = {method.name: inputs.prior(method) for method in spec.methods}
        claim(folder, spec, {**inputs.resolved, "priors": priors}, command)
        make_folder(folder / "trials")
        bench = _Bench(spec, inputs)
        base_nll = _base_nll(folder, bench)
        if should_stop():
            raise Interrupted
        records = _to_go_on_with(folder, watching.say)
        _drop_superseded(folder, records)
        while wanted := next_trials(spec, priors, records):
            for trial in wanted:
                if should_stop():
                    raise Interrupted
                _note_environment(folder, {**session, "threads": torch.get_num_threads()})
                watching.trial_started(trial, _ended(records), total_estimate(spec, records))
                record = _run(folder, bench, trial, records, Hooks(on_step=watching.step, should_stop=should_stop))
                records = read_trials(folder)
                _drop_superseded(folder, records)
                watching.trial_ended(record)
        verdict = judge(spec, records, _losses(folder, records), base_nll, _environment(folder), describe(spec))
        _keep_winners(folder, verdict, records)
        write_json(folder / VERDICT, verdict)
        return verdict


def read_trials(folder: Path) -> list[TrialRecord]:
    """Every trial of a study's folder, by id."""
    return [read_record(TrialRecord, path) for path in sorted((folder / "trials").glob(f"*/{RECORD}"))]


def _to_go_on_with(folder: Path, say: Callable[[str], None]) -> list[TrialRecord]:
    """The trials of an earlier session; those that failed (out of memory) are forgotten, so that they run again."""
    records = read_trials(folder)
    for record in records:
        if record.status == "failed":
            say(f"{record.id} failed before ({record.error}); it runs again")
            (folder / "trials" / record.id / RECORD).unlink()
    kept = [record for record in records if record.status != "failed"]
    if _ended(kept):
        say(f"going on after {_ended(kept)} trials that have ended")
    return kept


class _Bench:
    """The engine, loaded when first needed and afresh after a FullFT trial has changed the base."""

    def __init__(self, spec: CompareSpec, inputs: Opened) -> None:
        self.spec, self.inputs = spec, inputs
        self._engine: Engine | None = None

    def engine(self) -> Engine:
        if self._engine is None:
            self._engine = make_engine(self.spec, self.inputs.source)
            for method in self.spec.methods:  # a target that matches nothing is told before anything is trained
                if isinstance(method, LoRA):
                    find_targets(self._engine.model, self._engine.matrices, method.targets)
        return self._engine

    def changed(self) -> None:
        self._engine = None
        gc.collect()  # engine and model know each other; the next base must not be loaded beside this one


def _run(folder: Path, bench: _Bench, trial: TrialSpec, records: Sequence[TrialRecord], hooks: Hooks) -> TrialRecord:
    home = folder / "trials" / trial.id
    best = _best_of(trial.method.name, records)

    def deliver(engine: Engine, policy: str, record: TrialRecord) -> None:
        if best is None or _loss(record) <= _loss(best):  # of equals, the first by name is the best
            export_policy(engine, policy, home / _shipped(record))

    hooks = replace(hooks, should_prune=_pruner(folder, bench.spec, trial, records))
    task = Task(bench.engine(), bench.spec, bench.inputs.data.train, bench.inputs.data.test)
    try:
        return record_trial(task, trial, home, hooks, deliver)
    finally:
        if isinstance(trial.method, FullFT):
            del task
            bench.changed()


def _pruner(
    folder: Path, spec: CompareSpec, trial: TrialSpec, records: Sequence[TrialRecord]
) -> Callable[[int, float], str | None]:
    """The stopping rule: only search trials, only against the best finished trial of the same method and seed."""
    rivals = [r for r in records if r.method == trial.method.name and r.seed == trial.seed and r.status == "finished"]
    if spec.prune is None or trial.seed != 0 or not rivals:
        return Hooks().should_prune
    rival = min(rivals, key=_loss)
    curve = {m.step: m.test_nll for m in read_metrics(folder / "trials" / rival.id / METRICS) if m.test_nll is not None}
    margin = spec.prune

    def should_prune(step: int, nll: float) -> str | None:
        if step in curve and nll > (1 + margin) * curve[step]:
            return (
                f"after step {step} its held-out loss {nats(nll)} exceeded {nats(curve[step])}, that of learning rate "
                f"{rival.learning_rate:.3g}, by more than {margin:.0%}"
            )
        return None

    return should_prune


def _loss(record: TrialRecord) -> float:
    return float("inf") if record.test_nll is None else record.test_nll


def _best_of(method: str, records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The finished trial of a method with the lowest loss: the one whose weights are kept."""
    finished = [record for record in records if record.method == method and record.status == "finished"]
    return min(finished, key=_loss, default=None)


def _ended(records: Sequence[TrialRecord]) -> int:
    return sum(record.status != "running" for record in records)


def _shipped(record: TrialRecord) -> str:
    return "model" if isinstance(record.spec.method, FullFT) else "adapter"


def _drop_superseded(folder: Path, records: Sequence[TrialRecord]) -> None:
    """Of each method only the best trial keeps its weights: a study of a large base must fit on the disk."""
    for record in records:
        if record.status == "running":
            continue
        delete_checkpoint(folder / "trials" / record.id)  # left behind by a kill just after the record was written
        best = _best_of(record.method, records)
        if best is not None and record.id != best.id:
            shutil.rmtree(folder / "trials" / record.id / _shipped(record), ignore_errors=True)


def _base_nll(folder: Path, bench: _Bench) -> float:
    path = folder / BASE
    if not path.exists():
        losses = evaluate(bench.engine(), "base", bench.inputs.data.test)
        if not math.isfinite(mean_nll(losses)):
            raise ModelError(
                f"{bench.spec.model}: the base's own held-out loss is {mean_nll(losses)}, so nothing can be compared "
                "with it. Try --precision float32, or other data."
            )
        write_json(path, {"test_nll": mean_nll(losses), "test_tokens": sum(losses.tokens)})
    found = read_json(path)
    nll = found.get("test_nll") if isinstance(found, dict) else None
    if not isinstance(nll, float):
        raise RecordsError(f"{path}: holds no finite 'test_nll'. Delete the file and run the same command again.")
    return nll


def _losses(folder: Path, records: Sequence[TrialRecord]) -> dict[str, ExampleLosses]:
    found = {}
    for record in (record for record in records if record.status == "finished"):
        home = folder / "trials" / record.id
        try:
            found[record.id] = read_record(ExampleLosses, home / EXAMPLES)
        except RecordsError as error:
            problem = str(error).partition(" Delete")[0]
            raise RecordsError(
                f"{problem} Delete {home / RECORD} and run the same command again: the trial is repeated."
            ) from None
    return found


def _note_environment(folder: Path, session: dict[str, str | int]) -> None:
    """environment.json: every distinct environment that has run trials of this study, in order."""
    path = folder / ENVIRONMENT
    known = read_json(path)["sessions"] if path.exists() else []
    if session not in known:
        write_json(path, {"sessions": [*known, session]})


def _environment(folder: Path) -> dict[str, str | int]:
    """The first session's; what differed in a later one is added as `<key>, session 2`."""
    first, *later = read_json(folder / ENVIRONMENT)["sessions"]
    changes = {
        f"{key}, session {number}": value
        for number, session in enumerate(later, start=2)
        for key, value in session.items()
        if first.get(key) != value
    }
    return {**first, **changes}


def _keep_winners(folder: Path, verdict: Verdict, records: Sequence[TrialRecord]) -> None:
    """best/lora and best/full: the weights of each kind's best trial, and which trial that is.

    The LoRA is the recommended one when a LoRA is recommended, else the one with the lowest loss.
    """
    advice = verdict.recommendation
    for kind, result in (("lora", verdict.lora), ("full", verdict.full)):
        if result is None:
            continue
        name = advice.method if kind == "lora" and advice is not None and advice.rank is not None else result.name
        winner = _best_of(name, records)
        if winner is None:
            continue
        source = folder / "trials" / winner.id / _shipped(winner)
        target = folder / "best" / kind
        if (target / "trial.json").exists() and read_record(TrialRecord, target / "trial.json").id == winner.id:
            continue
        partial = target.with_name(kind + ".partial")
        with writing(target):
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(source, partial, copy_function=_link)
            write_json(partial / "trial.json", winner)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(partial, target)


def _link(source: str, target: str) -> None:
    """A hard link where the file system has them, so that a large model is not stored twice."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
