"""A run's manifest, made before its first step and held against the files again by `verify`. Needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lowregret.data.readers.registry import open_source
from lowregret.environment import versions
from lowregret.errors import LowregretError
from lowregret.models.files import base_files
from lowregret.runs.files import MANIFEST, SPEC
from lowregret.runs.lock import stored_spec
from lowregret.runs.manifest import Manifest, digests, read_manifest
from lowregret.spec import RL, DataSpec, TrainingSpec, build
from lowregret.spec.rl import OWN_PROBLEMS
from lowregret.strict_json import to_json
from lowregret.tasks import reward_source


def make_manifest(spec: TrainingSpec, train: str, test: str, template: Any) -> Manifest:
    """Of a run.

    Args:
        train, test: what is trained on and what it is judged by (`train.inputs.fingerprint`).
        template: the tokenizer's chat template in use: text, texts by name, or None.
    """
    return Manifest(
        base=digests(base_files(spec.model)),
        chat_template=None if template is None else hashlib.sha256(to_json(template).encode()).hexdigest(),
        train=train,
        test=test,
        sources=_sources(spec.data),
        reward=rewarded_by(spec),
        versions=versions(),
    )


def rewarded_by(spec: TrainingSpec) -> dict[str, str]:
    """File → SHA-256 of the reward's source, where the user's own function rewards (`tasks.source`)."""
    return reward_source(spec.objective.task) if isinstance(spec.objective, RL) else {}


def _sources(data: DataSpec) -> dict[str, str]:
    """Of the sources that lie on this machine or in the hub's cache; builtin ones are made by a version's own code."""
    found = {}
    for name in (data.train, data.eval):
        if name is None or name.startswith(OWN_PROBLEMS):
            continue
        source = open_source(name)
        for split in ("train",) if source.splits is None else {"train", source.held_out} & set(source.splits):
            found[f"{name} ({split})" if source.splits else name] = source.fingerprint(str(split))
    return found


def verify_inputs(folder: Path) -> tuple[list[str], list[str]]:
    """Hold the manifests of a run, compare or study against the files that are there now.

    Returns (what was found, in sentences; what is another content now). What is not on this machine is said and is no
    difference.
    """
    lines: list[str] = []
    differences: list[str] = []
    homes = sorted(file.parent for file in folder.rglob(SPEC))
    for home in homes:
        there, asked = read_manifest(home), stored_spec(home / SPEC)["spec"]
        place = "" if home == folder else f"{home.relative_to(folder)}: "
        if there is None:
            lines.append(f"{place}inputs: not checked, for it has no {MANIFEST}: an earlier version made it")
            continue
        unchecked: list[str] = []
        changed = list(_changes(there, asked, unchecked))
        differences += [f"{place}{what} changed since the run" for what in changed]
        lines += [f"{place}inputs: not checked: {why}" for why in unchecked]
    if homes and not lines and not differences:
        lines.append("inputs: base, tokenizer and data are those of the run")
    return list(dict.fromkeys(lines)), differences


def _changes(there: Manifest, asked: dict[str, Any], unchecked: list[str]) -> Iterator[str]:
    files = base_files(str(asked.get("model")))
    if files:
        yield from there.differences(there.model_copy(update={"base": digests(files)}))
    else:
        unchecked.append(f"the base {asked.get('model')} is not here")
    if there.reward:
        try:
            now = reward_source(asked["objective"]["task"])
        except (LowregretError, KeyError, TypeError) as error:
            unchecked.append(f"the reward: {error}")
        else:
            yield from there.differences(there.model_copy(update={"reward": now}))
    if there.sources:
        try:
            now = _sources(build(DataSpec, asked["data"], source=SPEC))
        except (LowregretError, OSError) as error:
            unchecked.append(f"the data cannot be read ({error})")
        else:
            yield from (f"the data of {name}" for name, found in there.sources.items() if now.get(name) != found)
