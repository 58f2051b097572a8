"""What a model card says of a model, gathered from the records of the run that trained it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lowregret.data.readers import hub
from lowregret.data.readers.registry import SOURCE_PREFIXES
from lowregret.environment import environment
from lowregret.errors import RecordsError
from lowregret.export.hub_base import Licence, base_label, base_licence, base_on_hub, require_hub_id
from lowregret.foreign import read_json, real_path
from lowregret.foreign_text import last_part
from lowregret.runs.atomic import read_record
from lowregret.runs.files import ADAPTER_CONFIG, SPEC, TRIAL, VERDICT
from lowregret.runs.forms import Form, default_name, served_name
from lowregret.runs.lock import stored_spec
from lowregret.runs.manifest import Manifest, read_manifest
from lowregret.runs.proof import Proof
from lowregret.runs.records import TrialRecord
from lowregret.runs.verdict import Verdict
from lowregret.spec.rl import OWN_PROBLEMS

_ABOVE = 4
"""Folders from a trial's weights up to its run: adapter, the trial, trials, the run."""


@dataclass(frozen=True)
class CardFacts:
    """All that a card may say. What an adapter that is not ours does not tell is None or empty."""

    form: Form
    name: str
    """The model's, as a person reads it."""
    base_label: str
    """The base without a folder, for where it has no name on the hub."""
    base: str | None = None
    """On the hub, ORG/NAME."""
    adapters: int = 1
    """So many were merged."""
    licence: Licence | None = None
    method: Mapping[str, Any] = field(default_factory=dict)
    """Of an adapter that is not ours: rank, alpha and targets, by adapter_config.json."""
    trial: TrialRecord | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)
    """The run's spec: batch, schedule, data."""
    manifest: Manifest | None = None
    verdict: Verdict | None = None
    seeds: int | None = None
    """With results of this method at this rate, this one among them."""
    proof: Proof | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    places: tuple[str, ...] = ()
    """Places of this machine that must not stand in the card: of the base, the data and the run."""


def card_facts(
    folder: Path,
    form: Form,
    *,
    base: str,
    base_name: str | None = None,
    name: str | None = None,
    proof: Proof | None = None,
    adapters: int = 1,
) -> CardFacts:
    """The facts of the adapter or model in `folder`, from the records in it and above it where it is a run's.

    Args:
        folder: what was trained: best/lora or best/full of a compare, adapter/ or model/ of a trial, or any adapter.
        form: in which it leaves.
        base: as `--model` names it.
        base_name, name, proof, adapters: as the fields of `CardFacts`.

    Raises RecordsError for a damaged record, SpecError for a `base_name` that is no ORG/NAME.
    """
    file = next((place / TRIAL for place in (folder, folder.parent) if (place / TRIAL).is_file()), None)
    trial = None if file is None else read_record(TrialRecord, file)
    run = _run(folder) if trial is not None else None
    asked = {} if run is None else dict(stored_spec(run / SPEC)["spec"])
    verdict = read_record(Verdict, run / VERDICT) if run is not None and (run / VERDICT).is_file() else None
    data = asked.get("data") or {}
    named = require_hub_id(base_name, "--base-name") if base_name else base_on_hub(base)
    places = (str(real_path(folder)), *(() if run is None else (str(real_path(run)),)))
    sources = (str(data.get("train") or ""), str(data.get("eval") or ""))
    return CardFacts(
        form=form,
        name=served_name(name or default_name(folder)),
        base_label=base_label(base),
        base=named,
        adapters=adapters,
        licence=base_licence(base),
        method={} if trial is not None else _method(folder),
        trial=trial,
        asked=asked,
        manifest=None if run is None else read_manifest(run),
        verdict=verdict,
        seeds=None if trial is None or verdict is None else _seeds(trial, verdict),
        proof=proof,
        environment=(verdict.environment if verdict is not None else None) or environment(),
        places=(*places, *(base for base in (base,) if base != named), *(s for s in sources if _is_place(s))),
    )


@dataclass(frozen=True)
class Data:
    """A source of rows, as it may be told to everybody."""

    label: str
    """Without a folder."""
    hub: str | None = None
    """Its id there, without a config."""


def public_data(source: str) -> Data:
    """A data source without its place: a hub id or a builtin as it is, of files and folders the names alone."""
    if source.startswith((*SOURCE_PREFIXES, *OWN_PROBLEMS)):
        return Data(source)
    if _is_place(source):
        return Data(", ".join(last_part(part.strip()) for part in source.split(",")))
    return Data(source, source.partition(":")[0])


def public_task(task: str) -> str:
    """A reward without its place: of a function in a file, the file's name and the function's."""
    return task if task.startswith(OWN_PROBLEMS) else last_part(task)


def _is_place(source: str) -> bool:
    """Whether it names files: whatever is no hub id by its form, or is, or was, a path here."""
    if source.startswith((*SOURCE_PREFIXES, *OWN_PROBLEMS)) or not source:
        return False
    if hub.READER.pattern is None or not hub.READER.pattern.fullmatch(source) or source.count("/") != 1:
        return True
    first = Path(source.partition(":")[0])
    return first.exists() or first.parent.exists() or bool(first.suffix and first.suffix[1:].isalpha())


def _run(folder: Path) -> Path | None:
    """The folder whose spec.json is the nearest one above what a trial has left."""
    whole = real_path(folder)
    return next((place for place in (whole, *whole.parents)[:_ABOVE] if (place / SPEC).is_file()), None)


def _seeds(trial: TrialRecord, verdict: Verdict) -> int | None:
    """With results at the trial's rate; None where that is not its method's best."""
    own = next((method for method in verdict.methods if method.name == trial.method), None)
    return None if own is None or own.best_learning_rate != trial.learning_rate else own.seeds


def _method(folder: Path) -> dict[str, Any]:
    try:
        config = read_json(folder / ADAPTER_CONFIG, RecordsError, "Bring it back as it was.")
    except FileNotFoundError:
        return {}
    if not isinstance(config, dict):
        return {}
    targets = config.get("target_modules")
    shown: Sequence[Any] = targets if isinstance(targets, list) else [targets]
    return {
        "Rank": config.get("r"),
        "Alpha": config.get("lora_alpha"),
        "Targets": ", ".join(str(target) for target in shown if target),
    }
