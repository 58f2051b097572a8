"""`lowregret compare`: ask the search for trials, run them, judge, and keep the winners.

The folder is the whole state: what was done is read from it, and what comes next is a pure function of what was done.
So a study that was killed at any moment goes on where it was and ends with the same numbers.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from lowregret.analysis.regret import judge
from lowregret.engine import Engine
from lowregret.environment import environment
from lowregret.errors import ModelError, RecordsError, SpecError
from lowregret.models.targets import find_targets
from lowregret.records import ExampleLosses, TrialRecord, Verdict, make_folder, read_json, read_record, write_json
from lowregret.spec import RL, CompareSpec, LoRA
from lowregret.study.crew import Crew, Observer, Silent
from lowregret.study.search import describe
from lowregret.study.winners import keep_winners
from lowregret.train.checkpoint import read_checkpoint
from lowregret.train.folder import claim, opened
from lowregret.train.interrupt import stop_requests
from lowregret.train.job import Opened, make_engine, open_inputs
from lowregret.train.pack import Hooks, Interrupted
from lowregret.train.step import EXAMPLES, Task, evaluate, mean_nll
from lowregret.train.trial import RECORD

BASE = "base.json"
VERDICT = "verdict.json"
ENVIRONMENT = "environment.json"


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
    if isinstance(spec.objective, RL):
        raise SpecError(
            "compare knows the objective sft only, so far. `lowregret train --objective rl` trains by reward."
        )
    watching = observer or Silent()
    with opened(Path(out)) as folder, stop_requests(watching.say) as should_stop:
        session = environment()
        inputs = open_inputs(spec, watching.say)
        for line in inputs.advice(spec.methods):
            watching.say(line)
        priors = {method.name: inputs.prior(method).value for method in spec.methods}
        claim(folder, spec, {**inputs.resolved, "priors": priors}, command)
        make_folder(folder / "trials")
        bench = _Bench(spec, inputs)
        base_nll = _base_nll(folder, bench)
        checkpoint = read_checkpoint(folder)
        crew = Crew(folder, spec, priors, watching, checkpoint)
        while checkpoint or crew.wanted():
            if should_stop():
                raise Interrupted
            _note_environment(folder, {**session, "threads": torch.get_num_threads()})
            if crew.train(bench.task(), Hooks(watching.step, crew.should_prune, should_stop), checkpoint):
                bench.spent()
            checkpoint = None
        records = crew.records
        verdict = judge(spec, records, _losses(folder, records), base_nll, _environment(folder), describe(spec))
        keep_winners(folder, verdict, records)
        write_json(folder / VERDICT, verdict)
        return verdict


class _Bench:
    """The engine, loaded when first needed and afresh after a FullFT trial has changed the base."""

    def __init__(self, spec: CompareSpec, inputs: Opened) -> None:
        self.spec, self.inputs = spec, inputs
        self._engine: Engine | None = None

    def engine(self) -> Engine:
        if self._engine is None:
            _set_aside()
            self._engine = make_engine(self.spec, self.inputs.source)
            for method in self.spec.methods:  # a target that matches nothing is told before anything is trained
                if isinstance(method, LoRA):
                    find_targets(self._engine.model, self._engine.matrices, method.targets)
        return self._engine

    def task(self) -> Task:
        return Task(self.engine(), self.spec, self.inputs.examples.train, self.inputs.examples.test)

    def spent(self) -> None:
        """The base has been trained: what comes next needs another."""
        self._engine = None
        gc.collect()  # engine and model know each other; the next base must not be loaded beside this one


def _set_aside() -> None:
    """Keep what is there before any engine out of later collections: hundreds of thousands of objects of libraries."""
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


def _base_nll(folder: Path, bench: _Bench) -> float:
    path = folder / BASE
    if not path.exists():
        losses = evaluate(bench.engine(), ["base"], bench.inputs.examples.test)["base"]
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
