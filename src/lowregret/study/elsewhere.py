"""Trials that another run has trained: a group that asks for the same ones need not train them again.

What counts is content, not names: the manifest's digests of base, template, data and reward, and what of the spec
changes a training. So a trial found here ends as the group's own would have, but for last digits of another machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from lowregret.errors import RecordsError, SpecError
from lowregret.foreign import read_bytes, real_path
from lowregret.runs.atomic import make_folder, remove_file, write_bytes, write_json
from lowregret.runs.boundary import refuse_links
from lowregret.runs.files import EXAMPLES, EXPERTS, FAILURES, GROUPS, METRICS, SPEC, TRANSCRIPTS, TRIAL, TRIALS
from lowregret.runs.lock import stored_spec
from lowregret.runs.manifest import Manifest, other_versions, read_manifest
from lowregret.runs.metrics import require_curve
from lowregret.runs.records import TrialRecord
from lowregret.runs.study import read_examples, read_trials, trial_folder, trial_record
from lowregret.spec import GroupSpec, TrialSpec

_LEFT = (METRICS, EXAMPLES, EXPERTS, TRANSCRIPTS, FAILURES)
"""What a trial leaves beside its record; its weights stay where they are."""
_OF_SPEC = ("objective", "batch_size", "steps", "epochs", "balance_experts", "optimizer")
"""What of a spec changes a training and stands in no digest."""
_RESOLVED = ("steps", "train_examples", "test_examples", "train_data", "test_data", "device", "dtype")
_REMEDY = "Leave the run out of --take-from, or mend it."


def runs_below(folders: Iterable[Path], own: Collection[Path]) -> list[Path]:
    """The folders with trials of comparisons, of studies, or of the studies below a folder, but for those of the
    studies that ask; RecordsError where there are none."""
    found = []
    asking = [real_path(study) for study in own]
    for folder in folders:
        if folder.parts and re.fullmatch(r"\w\w+:", folder.parts[0]):
            raise SpecError(f"--take-from {folder}: name folders. `lowregret study --store` fetches a study into one.")
        below = (sorted(folder.glob(pattern)) for pattern in (f"{GROUPS}/*", "*", f"*/{GROUPS}/*"))
        runs = [run for run in (folder, *chain.from_iterable(below)) if _holds_trials(run)]
        others = [run for run in runs if not any(real_path(run).is_relative_to(study) for study in asking)]
        if not others:
            raise RecordsError(f"{folder}: holds no trials of another run. Name the folder of a study.")
        found += others
    return found


def trained_elsewhere(
    runs: Iterable[Path], spec: GroupSpec, manifest: Manifest, resolved: Mapping[str, Any], say: Callable[[str], None]
) -> dict[TrialSpec, Path]:
    """Trial → its folder, of the trials of other runs that ended by themselves and are this group's own trainings.

    What is found is said, and of the first run with nothing why. A group that measures what is forgotten takes nothing:
    that needs weights, which a study does not keep.
    """
    found: dict[TrialSpec, Path] = {}
    others: list[str] = []
    for run in runs:
        try:
            problem = next(_differences(run, spec, manifest, resolved), None)
            if problem is None:
                refuse_links(run)
                own = {r.spec: trial_folder(run, r.id) for r in read_trials(run) if _fits(r, spec, resolved)}
                found = own | found
                versions = other_versions(read_manifest(run), manifest)
                since = f"; begun with other versions: {'; '.join(versions)}" if versions and own else ""
                say(f"{run}: {len(own)} trials are of this training{since}")
        except RecordsError as error:
            problem = f"it cannot be read: {error}"
        if problem is not None:
            others.append(f"{run}: {problem}")
    if others:
        more = f"; nor from {len(others) - 1} other runs" if len(others) > 1 else ""
        say(f"nothing is taken over from {others[0]}{more}")
    return found


def take_over(
    source: Path, target: Path, spec: GroupSpec, resolved: Mapping[str, Any], identity: str
) -> TrialRecord | None:
    """Have a trial in a group's folder, with curve and examples but without weights; None when it has changed and is
    none of the group's any more. RecordsError when it is damaged.

    `identity` is the group's (`runs.manifest`). Its record comes last: with it the trial has ended.
    """
    if not (source / TRIAL).is_file():
        return None
    record = trial_record(source)
    if not _fits(record, spec, resolved):
        return None
    if record.status == "finished":
        require_curve(source / METRICS, record.steps)
        read_examples(source / EXAMPLES)
    make_folder(target)
    for name in _LEFT:
        if (source / name).is_file():
            write_bytes(target / name, read_bytes(source / name, RecordsError, _REMEDY))
        else:
            remove_file(target / name)
    own = {"id": target.name, "inputs": identity, "shipped": {}, "stop_texts": ()}
    record = record.model_copy(update={**own, "taken_from": record.taken_from or str(source)})
    write_json(target / TRIAL, record)
    return record


def _holds_trials(run: Path) -> bool:
    return (run / SPEC).is_file() and (run / TRIALS).is_dir()


def _fits(record: TrialRecord, spec: GroupSpec, resolved: Mapping[str, Any]) -> bool:
    """Whether a trial of a run that trains the same ended by itself, judged by all held-out examples."""
    judged = record.search_nll is None and record.test_examples in (0, resolved["test_examples"])
    return judged and record.status in ("finished", "diverged") and record.spec.method in spec.methods


def _differences(run: Path, spec: GroupSpec, manifest: Manifest, resolved: Mapping[str, Any]) -> Iterator[str]:
    """Why no trial of `run` is one of the group's."""
    if spec.forgetting is not None:
        yield "what is forgotten is measured with weights, which a study does not keep"
    if not _holds_trials(run):
        yield "it is not to be seen from here"
        return
    there = read_manifest(run)
    if there is None or there.adopted:
        yield "its version noted no content"
        return
    for changed in there.differences(manifest):
        yield f"{changed} differs"
    if spec.objective.kind == "rl" and (versions := other_versions(there, manifest)):
        yield f"rewards were given by other versions ({'; '.join(versions)})"
    stored = stored_spec(run / SPEC)
    theirs, known, asked = stored["spec"], stored.get("resolved") or {}, spec.model_dump(mode="json")
    for name in _OF_SPEC:
        if theirs.get(name) != asked.get(name):
            yield f"{name} differs"
    for name in _RESOLVED:
        if known.get(name) != resolved[name]:
            yield f"{name} differs"
    if (known.get("evals") or theirs.get("evals")) != asked["evals"]:
        yield "evals differ"
