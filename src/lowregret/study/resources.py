"""What the trials of a folder are run with: an engine, loaded when it is needed, and what its base scores untrained."""

from __future__ import annotations

import gc
import math
from contextlib import suppress
from pathlib import Path

import torch

from lowregret.data.builtin.registry import known_fact_bits
from lowregret.data.prepare import PreparedData
from lowregret.data.table import supervised_counts
from lowregret.engine import Engine
from lowregret.errors import ModelError, SpecError
from lowregret.models.targets import find_targets
from lowregret.plan.resources.hardware import find_hardware
from lowregret.runs.atomic import read_json, write_json
from lowregret.runs.files import BASE
from lowregret.runs.study import QUANTISED, base_facts, note_base, start_loss
from lowregret.spec import RL, CompareSpec, GroupSpec, LoRA
from lowregret.spec.method import Quantisation
from lowregret.tasks import Grader
from lowregret.train.inputs import RunInputs, Say, engine_lines, make_workload
from lowregret.train.members import Workload
from lowregret.train.sft.work import evaluate, mean_nll, shared_nll


class TrialResources:
    """The engine, loaded when first needed and afresh after a FullFT trial has changed the base."""

    def __init__(
        self,
        spec: CompareSpec | GroupSpec,
        inputs: RunInputs,
        grader: Grader | None = None,
        say: Say = lambda line: None,
    ) -> None:
        """`grader` for reinforcement learning: what rewards samples, for as long as they are in use."""
        self.spec, self.inputs = spec, inputs
        self._grader, self._say = grader, say
        self._engine: Engine | None = None
        self._said: set[Quantisation] = set()

    def engine(self, quantisation: Quantisation = "none") -> Engine:
        """The one on a base of this quantisation; another's is let go of first."""
        if self._engine is not None and self._engine.base.quantisation != quantisation:
            self.discard_engine()
        if self._engine is None:
            _set_aside()
            self._engine = self.inputs.loaded_engine(quantisation)
            for method in self.spec.methods:  # a target that matches nothing is told before anything is trained
                if isinstance(method, LoRA):
                    find_targets(self._engine.model, self._engine.matrices, method.targets)
            if quantisation not in self._said:
                self._said.add(quantisation)
                for line in engine_lines(self._engine, self.spec):
                    self._say(line)
        return self._engine

    def workload(self, quantisation: Quantisation = "none") -> Workload:
        return make_workload(self.inputs, self.engine(quantisation), self._grader, self._say)

    def discard_engine(self) -> None:
        """The base has been trained: what comes next needs another."""
        self._engine = None
        gc.collect()  # engine and model know each other; the next base must not be loaded beside this one


def _set_aside() -> None:
    """Keep what is there before any engine out of later collections: hundreds of thousands of objects of libraries."""
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


def measure_base(folder: Path, resources: TrialResources) -> None:
    """base.json: the held-out loss before any training, nats per supervised token, of the base as it is and of each
    quantised one that a method asks for; measured once for a held-out set.

    With reinforcement learning every trial is evaluated before its first step: `runs.study` finds the base there.
    """
    path = folder / BASE
    if isinstance(resources.spec.objective, RL):
        if not path.exists():
            write_json(path, {"objective": "rl"})
    else:
        if not path.exists() or _outgrown(path, resources):
            write_json(path, _held_out(resources, "none"))
        for quantisation in resources.spec.quantisations:
            known = base_facts(folder).get(QUANTISED) or {}
            if quantisation != "none" and quantisation not in known:
                note_base(folder, **{QUANTISED: {**known, quantisation: _held_out(resources, quantisation)}})
    start_loss(folder)  # tells of a file that is damaged before anything is trained


def _held_out(resources: TrialResources, quantisation: Quantisation) -> dict[str, float]:
    """What base.json says of a base."""
    losses = evaluate(resources.engine(quantisation), ["base"], resources.inputs.examples.test)["base"]
    nll = mean_nll(losses)
    if not math.isfinite(nll):
        raise ModelError(
            f"{resources.spec.model}: the base's own held-out loss is {nll}, so nothing can be compared "
            "with it. Try --precision float32, or other data."
        )
    shared = shared_nll(losses, resources.inputs.shared)
    first = {} if shared is None else {"search_nll": shared}
    return {"test_nll": nll, "test_tokens": sum(losses.tokens), **first}


def _outgrown(path: Path, resources: TrialResources) -> bool:
    """Whether the base was measured on fewer held-out examples than there are now."""
    found = read_json(path)
    tokens = found.get("test_tokens") if isinstance(found, dict) else None
    return resources.inputs.shared is not None and tokens != int(
        supervised_counts(resources.inputs.examples.test).sum()
    )


def note_costs(folder: Path, resources: TrialResources) -> None:
    """In base.json: multiply-adds of a training token by method, the price of a GPU that the catalogue knows, and how
    much the training data have to teach."""
    inputs = resources.inputs
    facts: dict[str, object] = {"multiply_adds": inputs.multiply_adds(resources.spec.methods)}
    if isinstance(inputs.data, PreparedData):
        facts["supervised_tokens"] = int(supervised_counts(inputs.data.train).sum())
        source = resources.spec.data
        bits = known_fact_bits(source.train) if source.max_train is None else None
        facts |= {} if bits is None else {"fact_bits": bits}
    if inputs.device.startswith("cuda"):
        with suppress(SpecError):  # of another device no price is known
            price = find_hardware(torch.cuda.get_device_name(inputs.device)).price_per_hour
            facts |= {} if price is None else {"price_per_hour": price}
    note_base(folder, **facts)
