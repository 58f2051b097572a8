"""One group of a study's trials, in a folder of its own: `lowregret compare` without a verdict.

The folder is the whole state, as for compare. It can be extended: more methods, seeds or rates asked of the same base,
data, batch and steps are trained beside what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lowregret.data.builtin.registry import known_fact_bits
from lowregret.data.example import Example
from lowregret.data.prepare import prepare_held_out
from lowregret.engine import Engine
from lowregret.environment import environment
from lowregret.errors import RecordsError
from lowregret.models.load import load_tokenizer
from lowregret.runs.atomic import make_folder, write_json
from lowregret.runs.files import FORGETTING, PRIORS, SPEC, TRIALS
from lowregret.runs.lock import bind_spec, lock_run, require_same, stored_spec
from lowregret.runs.manifest import note_manifest
from lowregret.runs.measured import read_priors
from lowregret.runs.records import TrialRecord
from lowregret.runs.spelling import is_older, respelled
from lowregret.runs.study import base_facts, note_base, trial_folder
from lowregret.spec import DataSpec, GroupSpec
from lowregret.study.elsewhere import take_over, trained_elsewhere
from lowregret.study.observer import Observer
from lowregret.study.resources import TrialResources, measure_base
from lowregret.study.scheduler import Scheduler
from lowregret.train.inputs import confined, grading, open_inputs
from lowregret.train.sft.work import evaluate, mean_nll

_EXTENDABLE = ("methods", "seeds", "seeds_at", "learning_rates", "start_from")


def run_group(
    folder: Path,
    spec: GroupSpec,
    starts: Mapping[str, float],
    observer: Observer,
    should_stop: Callable[[], bool],
    given_up: Mapping[str, str] = MappingProxyType({}),
    take_from: Sequence[Path] = (),
) -> None:
    """Train what the group still lacks.

    Args:
        given_up: a trial's id → why it is recorded as failed and not trained.
        starts: method name → learning rate to start the search from, where another group has found one; the others
            start from the prior. What a search once started from is kept.
        take_from: folders of other runs whose trials are taken over where this group asks for the same.

    Raises LowregretError, or Interrupted after a clean stop.
    """
    with lock_run(folder), grading(spec, observer.say) as grader:
        session = environment() | confined(grader)
        inputs = open_inputs(spec, observer.say)
        inputs.require_manifest(folder, observer.say)
        older = (folder / SPEC).exists() and is_older(stored_spec(folder / SPEC).get("lowregret"))
        known = read_priors(folder)
        if older and known:  # before spec.json is of today: a kill in between must not leave old names beside it
            known = respelled(known, spec.methods)
            write_json(folder / PRIORS, known)
        _extend(folder / SPEC, spec)
        bind_spec(folder, spec, dict(inputs.resolved), "")
        note_manifest(folder, inputs.manifest)
        make_folder(folder / TRIALS)
        for method in spec.methods:
            if method.name not in known:
                known[method.name] = starts.get(method.name) or inputs.prior(method).value
        write_json(folder / PRIORS, known)
        resources = TrialResources(spec, inputs, grader, observer.say)
        measure_base(folder, resources)
        note_base(folder, hidden_size=inputs.config.get_text_config().hidden_size)
        if facts := known_fact_bits(spec.data.train):
            note_base(folder, fact_bits=facts)
        elsewhere = trained_elsewhere(take_from, spec, inputs.manifest, inputs.resolved, observer.say)

        def take(source: Path, target: Path) -> TrialRecord | None:
            try:
                return take_over(source, target, spec, inputs.resolved, inputs.identity)
            except RecordsError as error:
                observer.say(f"{source}: is not taken over but trained: {error}")
                return None

        deliver = _Forgetting(folder, resources) if spec.forgetting else _nothing
        scheduler = Scheduler(
            folder, spec, known, observer, inputs.identity, deliver, given_up=given_up, elsewhere=elsewhere, take=take
        )
        scheduler.run(resources, session, should_stop)


def require_extension(folder: Path, spec: GroupSpec) -> None:
    """RecordsError when the trials of a group's folder are of another base, data, batch or length than `spec` asks."""
    if (folder / SPEC).exists():
        asked = spec.model_dump(mode="json")
        stored: dict[str, Any] = stored_spec(folder / SPEC)["spec"]
        require_same(folder, {"spec": stored | {name: asked[name] for name in _EXTENDABLE}}, {"spec": asked})


def _extend(file: Path, spec: GroupSpec) -> None:
    """What may change between sessions is taken over into spec.json, so that the rest is compared."""
    if not file.exists():
        return
    stored, asked = stored_spec(file), spec.model_dump(mode="json")
    changed = {name: asked[name] for name in _EXTENDABLE if stored["spec"].get(name) != asked[name]}
    if changed:
        write_json(file, {**stored, "spec": stored["spec"] | changed})


def _nothing(engine: Engine, policy: str, record: TrialRecord) -> None:
    """A study keeps numbers, no weights."""


class _Forgetting:
    """Measures each finished trial, and the base itself, on held-out text of what the base was trained on."""

    def __init__(self, folder: Path, resources: TrialResources) -> None:
        self._folder = folder
        spec = resources.spec
        assert isinstance(spec, GroupSpec)
        data = DataSpec(train=str(spec.forgetting), max_length=spec.data.max_length, max_eval=spec.data.max_eval)
        self._examples: Sequence[Example]
        self._examples, _ = prepare_held_out(data, load_tokenizer(resources.inputs.source))
        if "forgetting_nll" not in base_facts(folder):
            note_base(folder, forgetting_nll=self._nll(resources.engine(), "base"))

    def __call__(self, engine: Engine, policy: str, record: TrialRecord) -> None:
        path = trial_folder(self._folder, record.id) / FORGETTING
        write_json(path, {"test_nll": self._nll(engine, policy)})

    def _nll(self, engine: Engine, policy: str) -> float:
        return mean_nll(evaluate(engine, [policy], self._examples)[policy])
