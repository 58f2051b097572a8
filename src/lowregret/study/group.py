"""One group of a study's trials, in a folder of its own: `lowregret compare` without a verdict.

The folder is the whole state, as for compare. It can be extended: more methods, seeds or rates asked of the same base,
data, batch and steps are trained beside what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from lowregret.data.bundled import load_builtin
from lowregret.data.chat import Example
from lowregret.data.prepare import prepare_held_out
from lowregret.engine import Engine
from lowregret.environment import environment
from lowregret.errors import RecordsError
from lowregret.models.load import load_tokenizer
from lowregret.records import TrialRecord, make_folder, read_json, write_json
from lowregret.spec import DataSpec, GroupSpec
from lowregret.study.bench import BASE, Bench, note_base, note_environment
from lowregret.study.crew import Crew, Observer
from lowregret.train.checkpoint import read_checkpoint
from lowregret.train.folder import SPEC, claim, opened, require_same
from lowregret.train.job import grading, open_inputs
from lowregret.train.pack import Hooks, Interrupted
from lowregret.train.step import evaluate, mean_nll

PRIORS = "priors.json"
FORGETTING = "forgetting.json"
_EXTENDABLE = ("methods", "seeds", "seeds_at", "learning_rates", "start_from")


def run_group(
    folder: Path,
    spec: GroupSpec,
    starts: Mapping[str, float],
    observer: Observer,
    should_stop: Callable[[], bool],
) -> None:
    """Train what the group still lacks.

    Args:
        starts: method name → learning rate to start the search from, where another group has found one; the others
            start from the prior. What a search once started from is kept.

    Raises LowregretError, or Interrupted after a clean stop.
    """
    with opened(folder), grading(spec) as grader:
        session = environment()
        inputs = open_inputs(spec, observer.say)
        _extend(folder / SPEC, spec)
        claim(folder, spec, inputs.resolved, "")
        make_folder(folder / "trials")
        known: dict[str, float] = read_json(folder / PRIORS) if (folder / PRIORS).exists() else {}
        for method in spec.methods:
            if method.name not in known:
                known[method.name] = starts.get(method.name) or inputs.prior(method).value
        write_json(folder / PRIORS, known)
        bench = Bench(spec, inputs, grader, observer.say)
        note_base(folder, bench)
        _note(folder, hidden_size=inputs.config.get_text_config().hidden_size)
        if spec.data.train.startswith("builtin:") and (facts := load_builtin(spec.data.train).facts.get("fact_bits")):
            _note(folder, fact_bits=facts)
        deliver = _Forgetting(folder, bench) if spec.forgetting else _nothing
        checkpoint = read_checkpoint(folder)
        crew = Crew(folder, spec, known, observer, checkpoint, deliver)
        while checkpoint or crew.wanted():
            if should_stop():
                raise Interrupted
            note_environment(folder, {**session, "threads": torch.get_num_threads()})
            if crew.train(bench.task(), Hooks(observer.step, crew.should_prune, should_stop), checkpoint):
                bench.spent()
            checkpoint = None


def require_extension(folder: Path, spec: GroupSpec) -> None:
    """RecordsError when the trials of a group's folder are of another base, data, batch or length than `spec` asks."""
    if (folder / SPEC).exists():
        asked = spec.model_dump(mode="json")
        stored: dict[str, Any] = _stored(folder / SPEC)["spec"]
        require_same(folder, {"spec": stored | {name: asked[name] for name in _EXTENDABLE}}, {"spec": asked})


def _extend(file: Path, spec: GroupSpec) -> None:
    """What may change between sessions is taken over into spec.json, so that the rest is compared."""
    if not file.exists():
        return
    stored, asked = _stored(file), spec.model_dump(mode="json")
    changed = {name: asked[name] for name in _EXTENDABLE if stored["spec"].get(name) != asked[name]}
    if changed:
        write_json(file, {**stored, "spec": stored["spec"] | changed})


def _stored(file: Path) -> dict[str, Any]:
    stored = read_json(file)
    if not isinstance(stored, dict) or not isinstance(stored.get("spec"), dict):
        raise RecordsError(f"{file}: damaged: it holds no spec. Use another --out.")
    return stored


def _note(folder: Path, **facts: Any) -> None:
    """Add facts about the base to base.json."""
    found: dict[str, Any] = read_json(folder / BASE)
    if found != found | facts:
        write_json(folder / BASE, found | facts)


def _nothing(engine: Engine, policy: str, record: TrialRecord) -> None:
    """A study keeps numbers, no weights."""


class _Forgetting:
    """Measures each finished trial, and the base itself, on held-out text of what the base was trained on."""

    def __init__(self, folder: Path, bench: Bench) -> None:
        self._folder = folder
        spec = bench.spec
        assert isinstance(spec, GroupSpec)
        data = DataSpec(train=str(spec.forgetting), max_length=spec.data.max_length, max_eval=spec.data.max_eval)
        self._examples: tuple[Example, ...]
        self._examples, _ = prepare_held_out(data, load_tokenizer(bench.inputs.source))
        if "forgetting_nll" not in read_json(folder / BASE):
            _note(folder, forgetting_nll=self._nll(bench.engine(), "base"))

    def __call__(self, engine: Engine, policy: str, record: TrialRecord) -> None:
        path = self._folder / "trials" / record.id / FORGETTING
        write_json(path, {"test_nll": self._nll(engine, policy)})

    def _nll(self, engine: Engine, policy: str) -> float:
        return mean_nll(evaluate(engine, [policy], self._examples)[policy])
