"""Where trials are run: a base, loaded when it is needed; what it scores before training; and on which machine."""

from __future__ import annotations

import gc
import math
from pathlib import Path

from lowregret.analysis.start import start_loss
from lowregret.engine import Engine
from lowregret.errors import ModelError
from lowregret.models.targets import find_targets
from lowregret.records import read_json, write_json
from lowregret.spec import RL, CompareSpec, GroupSpec, LoRA
from lowregret.tasks import Grader
from lowregret.train.job import Opened, Say, make_engine, make_task
from lowregret.train.step import Job, evaluate, mean_nll

BASE = "base.json"
ENVIRONMENT = "environment.json"


class Bench:
    """The engine, loaded when first needed and afresh after a FullFT trial has changed the base."""

    def __init__(
        self,
        spec: CompareSpec | GroupSpec,
        inputs: Opened,
        grader: Grader | None = None,
        say: Say = lambda line: None,
    ) -> None:
        """`grader` for reinforcement learning: what rewards samples, for as long as the bench is in use."""
        self.spec, self.inputs = spec, inputs
        self._grader, self._say = grader, say
        self._engine: Engine | None = None

    def engine(self) -> Engine:
        if self._engine is None:
            _set_aside()
            self._engine = make_engine(self.spec, self.inputs.source)
            for method in self.spec.methods:  # a target that matches nothing is told before anything is trained
                if isinstance(method, LoRA):
                    find_targets(self._engine.model, self._engine.matrices, method.targets)
        return self._engine

    def task(self) -> Job:
        return make_task(self.spec, self.inputs, self.engine(), self._grader, self._say)

    def spent(self) -> None:
        """The base has been trained: what comes next needs another."""
        self._engine = None
        gc.collect()  # engine and model know each other; the next base must not be loaded beside this one


def _set_aside() -> None:
    """Keep what is there before any engine out of later collections: hundreds of thousands of objects of libraries."""
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


def note_base(folder: Path, bench: Bench) -> None:
    """base.json: the held-out loss before any training, nats per supervised token; measured once a folder.

    With reinforcement learning every trial is evaluated before its first step: `analysis.start` finds the base there.
    """
    path = folder / BASE
    if isinstance(bench.spec.objective, RL):
        if not path.exists():
            write_json(path, {"objective": "rl"})
    elif not path.exists():
        losses = evaluate(bench.engine(), ["base"], bench.inputs.examples.test)["base"]
        if not math.isfinite(mean_nll(losses)):
            raise ModelError(
                f"{bench.spec.model}: the base's own held-out loss is {mean_nll(losses)}, so nothing can be compared "
                "with it. Try --precision float32, or other data."
            )
        write_json(path, {"test_nll": mean_nll(losses), "test_tokens": sum(losses.tokens)})
    start_loss(folder)  # tells of a file that is damaged before anything is trained


def note_environment(folder: Path, session: dict[str, str | int]) -> None:
    """environment.json: every distinct environment that has run trials of this study, in order."""
    path = folder / ENVIRONMENT
    known = read_json(path)["sessions"] if path.exists() else []
    if session not in known:
        write_json(path, {"sessions": [*known, session]})


def environment_of(folder: Path) -> dict[str, str | int]:
    """The first session's; what differed in a later one is added as `<key>, session 2`."""
    first, *later = read_json(folder / ENVIRONMENT)["sessions"]
    changes = {
        f"{key}, session {number}": value
        for number, session in enumerate(later, start=2)
        for key, value in session.items()
        if first.get(key) != value
    }
    return {**first, **changes}
