"""How far studies are, from their folders alone: from any machine that sees them, whoever trains. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lowregret.errors import RecordsError
from lowregret.questions.evidence import stored_question
from lowregret.questions.registry import Asked
from lowregret.runs.atomic import read_json
from lowregret.runs.files import CLAIMS, METRICS, PRIORS, STUDY
from lowregret.runs.lock import is_locked
from lowregret.runs.metrics import held_out_curve
from lowregret.runs.records import TrialRecord
from lowregret.runs.standing import GroupReader, GroupStanding, said_last
from lowregret.runs.study import group_folder, trial_folder
from lowregret.spec import GroupSpec, build
from lowregret.study.lattice import group_estimate, group_trials

State = Literal["done", "training", "waiting", "stopped"]


@dataclass(frozen=True)
class GroupStatus:
    """One group."""

    standing: GroupStanding
    state: State
    """stopped: it has begun, asks for more, and nobody trains it."""
    failed: Sequence[TrialRecord]
    said: Sequence[str]
    """The last that its workers said, where a trial has failed or it has stopped."""


@dataclass(frozen=True)
class StudyStatus:
    """One study."""

    name: str
    """Its folder, or its address in a store."""
    command: str
    """That started it."""
    judged: bool
    """Whether it has its claims."""
    groups: Sequence[GroupStatus]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "command": self.command,
            "judged": self.judged,
            "groups": {group.standing.key: _plain(group) for group in self.groups},
        }


def read_status(folder: Path) -> list[StudyStatus]:
    """Of the study in a folder, or of all in the folders in it; RecordsError where there is none."""
    folders = [folder] if (folder / STUDY).is_file() else sorted(file.parent for file in folder.glob(f"*/{STUDY}"))
    if not folders:
        raise RecordsError(f"{folder}: holds no study ({STUDY}). Name the --out of `lowregret study`.")
    return [study_status(each, str(each)) for each in folders]


def study_status(folder: Path, name: str) -> StudyStatus:
    """Of the study in a folder, called by what the folder is a copy of where it is one."""
    head = stored_question(folder / STUDY)
    question = build(Asked, {"question": head["question"]}, source=str(folder / STUDY)).question
    judged = (folder / CLAIMS).exists()
    groups = [_group(group_folder(folder, group), group, judged) for group in question.groups()]
    return StudyStatus(name, str(head.get("command", "")), judged, groups)


def _group(home: Path, spec: GroupSpec, judged: bool) -> GroupStatus:
    standing = GroupReader(home, spec).look()
    standing = replace(standing, expected=group_estimate(spec, standing.records))
    state: State = "waiting"
    if _held(home, standing):
        state = "training"
    elif judged:  # with fewer seeds than asked for where it was settled
        state = "done"
    elif standing.records:
        state = "stopped" if standing.running or _wanted(home, spec, standing) else "done"
    failed = [record for record in standing.ended if record.status == "failed"]
    return GroupStatus(standing, state, failed, said_last(home) if failed or state == "stopped" else ())


def _held(home: Path, standing: GroupStanding) -> bool:
    """Whether a process trains it; where this one may not write, whether one says so."""
    try:
        return is_locked(home)
    except RecordsError:
        return standing.holder is not None


def _wanted(home: Path, spec: GroupSpec, standing: GroupStanding) -> bool:
    """Whether its search asks for more."""
    priors = read_json(home / PRIORS) if (home / PRIORS).exists() else {}
    rates = [priors.get(method.name) for method in spec.methods] if isinstance(priors, dict) else [None]
    if not all(isinstance(rate, float) and rate > 0 for rate in rates):
        return True

    def curve(record: TrialRecord) -> dict[int, float]:
        return held_out_curve(trial_folder(home, record.id) / METRICS)

    return bool(group_trials(spec, priors, standing.ended, curve))


def _plain(group: GroupStatus) -> dict[str, Any]:
    standing = group.standing
    return {
        "state": group.state,
        "trials": dict(standing.counts),
        "expected": standing.expected,
        "training": [
            {
                "id": record.id,
                "step": standing.last[record.id].step if record.id in standing.last else 0,
                "steps": standing.steps,
                "held_out": standing.last[record.id].test_loss if record.id in standing.last else None,
            }
            for record in standing.running
        ],
        "worker": None if standing.holder is None else {"host": standing.holder.host, "pid": standing.holder.pid},
        "failed": {record.id: record.error for record in group.failed},
        "log": list(group.said),
    }
