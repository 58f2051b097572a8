"""Whose weights a study keeps: of each method the best trial's, and the adapters at its best rate; of each kind the
winner's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from lowregret.analysis.learning_rate import best_rate
from lowregret.engine import Engine
from lowregret.export.peft import export_policy
from lowregret.runs.atomic import read_record, remove_folder, replacing_folder, write_json
from lowregret.runs.files import BEST, BEST_FULL, BEST_LORA, TRIAL
from lowregret.runs.records import TrialRecord
from lowregret.runs.shipped import require_shipped
from lowregret.runs.study import shipped_folder, trial_folder
from lowregret.runs.verdict import Verdict
from lowregret.spec import LoRA


def best_of(method: str, records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The finished trial of a method with the lowest loss, or highest reward, on the examples that all share."""
    finished = [record for record in records if record.method == method and record.status == "finished"]
    return min(finished, key=_loss, default=None)


def keeping(method: str, records: Sequence[TrialRecord]) -> set[str]:
    """The ids of a method's trials whose weights are kept: the best one, and all LoRAs at the best rate.

    Adapters are small, and with them more held-out examples train nothing; of whole models there is one, since a study
    of a large base must fit on the disk.
    """
    best = best_of(method, records)
    if best is None:
        return set()
    own = [record for record in records if record.method == method and record.status == "finished"]
    rate = best_rate(own).learning_rate
    adapters = {r.id for r in own if isinstance(r.spec.method, LoRA) and r.learning_rate == rate}
    return {best.id, *adapters}


def keep_if_best(
    engine: Engine, policy: str, record: TrialRecord, records: Sequence[TrialRecord], folder: Path
) -> Path | None:
    """Ship a finished trial's weights to its folder, which is returned, if they are among those that are kept."""
    known = sorted([*(other for other in records if other.id != record.id), record], key=lambda each: each.id)
    if record.id not in keeping(record.method, known):
        return None
    shipped = trial_folder(folder, record.id) / shipped_folder(record)
    export_policy(engine, policy, shipped)
    return shipped


def drop_superseded(folder: Path, records: Sequence[TrialRecord]) -> None:
    """Of each method only the trials that `keeping` names have their weights."""
    kept = {name for method in {record.method for record in records} for name in keeping(method, records)}
    for record in records:
        if record.status != "running" and record.id not in kept and best_of(record.method, records) is not None:
            remove_folder(trial_folder(folder, record.id) / shipped_folder(record))


def keep_winners(folder: Path, verdict: Verdict, records: Sequence[TrialRecord]) -> None:
    """best/lora and best/full: the weights of each kind's best trial, and which trial that is.

    The LoRA is the recommended one when a LoRA is recommended, else the one with the lowest loss.
    """
    advice = verdict.recommendation
    for kind, result in ((BEST_LORA, verdict.lora), (BEST_FULL, verdict.full)):
        if result is None:
            continue
        name = advice.method if kind == BEST_LORA and advice is not None and advice.rank is not None else result.name
        winner = best_of(name, records)
        if winner is None:
            continue
        source = trial_folder(folder, winner.id) / shipped_folder(winner)
        target = folder / BEST / kind
        if (target / TRIAL).exists() and (before := read_record(TrialRecord, target / TRIAL)).id == winner.id:
            require_shipped(winner, target, f"Delete {target} and run the same command again: it is made anew.")
            if before != winner:  # judged again
                write_json(target / TRIAL, winner)
            continue
        home = trial_folder(folder, winner.id)
        require_shipped(winner, source, f"Bring it back, or delete {home / TRIAL}: the trial is repeated.")
        with replacing_folder(target) as partial:
            shutil.copytree(source, partial, copy_function=_link, dirs_exist_ok=True)
            write_json(partial / TRIAL, winner)


def _loss(record: TrialRecord) -> float:
    loss = record.shared_loss
    return float("inf") if loss is None else loss


def _link(source: str, target: str) -> None:
    """A hard link where the file system has them, so that a large model is not stored twice."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
