"""Trials that another run has trained: a group that asks for the same ones need not train them again.

What counts is content, not names: the manifest's digests of base, template, data and reward, and what of the spec
changes a training. So a trial found here ends as the group's own would have, but for last digits of another machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from lowregret.errors import RecordsError
from lowregret.runs.atomic import make_folder, write_bytes, write_json
from lowregret.runs.boundary import refuse_links
from lowregret.runs.files import EXAMPLES, EXPERTS, FAILURES, GROUPS, METRICS, SPEC, TRANSCRIPTS, TRIAL, TRIALS
from lowregret.runs.lock import stored_spec
from lowregret.runs.manifest import Manifest, read_manifest
from lowregret.runs.metrics import require_curve
from lowregret.runs.records import TrialRecord
from lowregret.runs.study import read_trials, trial_folder, trial_record
from lowregret.spec import GroupSpec, TrialSpec

_LEFT = (METRICS, EXAMPLES, EXPERTS, TRANSCRIPTS, FAILURES)
"""What a trial leaves beside its record; its weights stay where they are."""
_OF_SPEC = ("objective", "batch_size", "balance_experts", "optimizer")
"""What of a spec changes a training and stands in no digest."""
_RESOLVED = ("steps", "train_examples", "test_examples", "train_data", "test_data", "device", "dtype")


def runs_below(folder: Path) -> list[Path]:
    """The folders with trials of a comparison, of a study, or of the studies below a folder; RecordsError when there
    are none."""
    below = (sorted(folder.glob(pattern)) for pattern in (f"{GROUPS}/*", "*", f"*/{GROUPS}/*"))
    found = [run for run in (folder, *chain.from_iterable(below)) if _holds_trials(run)]
    if not found:
        raise RecordsError(f"{folder}: holds no trials. Name the folder of a study or of a comparison.")
    return found


def trained_elsewhere(
    runs: Iterable[Path], spec: GroupSpec, manifest: Manifest, resolved: Mapping[str, Any]
) -> dict[TrialSpec, Path]:
    """Trial → its folder, of the trials of other runs that ended by themselves and are this group's own trainings.

    None for a group that measures what is forgotten: that takes weights, which a study does not keep. RecordsError
    when a run's records are gone, damaged, or elsewhere by a link.
    """
    found: dict[TrialSpec, Path] = {}
    if spec.forgetting is not None:
        return found
    for run in runs:
        if not _holds_trials(run):
            raise RecordsError(f"{run}: its trials are to be taken over, but are not to be seen here.")
        if not _trains_the_same(run, spec, manifest, resolved):
            continue
        refuse_links(run)
        for record in read_trials(run):
            if record.status in ("finished", "diverged") and record.test_examples in (0, resolved["test_examples"]):
                found.setdefault(record.spec, trial_folder(run, record.id))
    return found


def take_over(source: Path, target: Path, identity: str) -> TrialRecord:
    """Have a trial in a group's folder, with curve and examples but without weights; RecordsError when it is damaged.

    `identity` is the group's (`runs.manifest`). Its record comes last: with it the trial has ended.
    """
    record = trial_record(source)
    if record.status == "finished":
        require_curve(source / METRICS, record.steps)
    make_folder(target)
    for name in _LEFT:
        if (source / name).is_file():
            write_bytes(target / name, (source / name).read_bytes())
    own: dict[str, Any] = {"id": target.name, "inputs": identity, "search_nll": None, "shipped": {}, "stop_texts": ()}
    record = record.model_copy(update={**own, "taken_from": str(source)})
    write_json(target / TRIAL, record)
    return record


def _holds_trials(run: Path) -> bool:
    return (run / SPEC).is_file() and (run / TRIALS).is_dir()


def _trains_the_same(run: Path, spec: GroupSpec, manifest: Manifest, resolved: Mapping[str, Any]) -> bool:
    """Whether a trial of `run` is one of the group's; False for runs of versions that noted no content."""
    there = read_manifest(run)
    if there is None or there.adopted or any(there.differences(manifest)):
        return False
    stored = stored_spec(run / SPEC)
    theirs, known = stored["spec"], stored.get("resolved") or {}
    if any(known.get(name) != resolved[name] for name in _RESOLVED):
        return False
    asked = spec.model_dump(mode="json")
    if (known.get("evals") or theirs.get("evals")) != asked["evals"]:
        return False
    return all(theirs.get(name) == asked.get(name) for name in _OF_SPEC)
