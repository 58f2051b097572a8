"""The trials and curves of studies for other programs: CSV, Parquet, or a storage that optuna-dashboard opens."""

from __future__ import annotations

import csv
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowregret.analysis.condition import Trial
from lowregret.errors import SpecError
from lowregret.foreign import real_path
from lowregret.foreign_text import cell
from lowregret.questions.claim import Evidence
from lowregret.questions.evidence import read_evidence, read_trial
from lowregret.questions.judge import judge_study
from lowregret.runs.atomic import replacing
from lowregret.runs.files import STUDY
from lowregret.runs.study import trial_folders, trial_record
from lowregret.spec import LoRA

TABLES = ("trials", "curves", "claims")
FORMATS = (".csv", ".parquet", ".db")
COMPARE = "compare"
"""What a folder of `lowregret compare` is called in the column `study`, and its one condition in `condition`."""


@dataclass(frozen=True)
class Condition:
    """The trials under one condition."""

    name: str
    rewarded: bool
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Placed:
    """A study, or a compare, and where it is."""

    place: str
    """Its folder, from the one that holds all."""
    kind: str
    conditions: tuple[Condition, ...]
    evidence: Evidence[Any] | None
    """Of a study."""


def export(folders: Sequence[Path], target: Path, table: str = "trials") -> int:
    """Write one table of these studies to `target`, whose suffix says how; returns its rows.

    `trials` has a row a trial, `curves` one an evaluation, `claims` one a claim. A `.db` is an Optuna storage: a study
    for each method under each condition, with all trials and their curves. Each row has its study's `folder`, seen from
    the one that holds all of them. Folders of `lowregret compare` have trials and curves, but no claims. Raises
    SpecError for another suffix, and for the claims of a compare.
    """
    if target.suffix not in FORMATS:
        raise SpecError(f"--out {target}: the suffix says the format. Valid: {', '.join(FORMATS)}.")
    studies = [_read(place, folder) for place, folder in zip(_places(folders), folders, strict=True)]
    if target.suffix == ".db":
        return _optuna(studies, target)
    rows = list(_ROWS[table](studies))
    with replacing(target) as partial:
        if target.suffix == ".csv":
            _write_csv(rows, partial)
        else:
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), partial)
    return len(rows)


def _read(place: str, folder: Path) -> Placed:
    if not (folder / STUDY).is_file():
        homes = trial_folders(folder)
        records = [trial_record(home) for home in homes]
        trials = [
            read_trial(record, home) for record, home in zip(records, homes, strict=True) if record.status != "running"
        ]
        rewarded = any(trial.record.test_reward is not None for trial in trials)
        return Placed(place, COMPARE, (Condition(COMPARE, rewarded, tuple(trials)),), None)
    study = read_evidence(folder)
    found = (Condition(each.name, each.rewarded, each.trials) for each in study.conditions.values())
    return Placed(place, study.kind, tuple(found), study)


def _places(folders: Sequence[Path]) -> list[str]:
    whole = [real_path(folder) for folder in folders]
    above = os.path.commonpath([folder.parent for folder in whole])
    return [folder.relative_to(above).as_posix() for folder in whole]


def _write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)


def _trials(studies: Sequence[Placed]) -> Iterator[dict[str, Any]]:
    for study, condition, trial in _placed(studies):
        record, method = trial.record, trial.record.spec.method
        lora = method if isinstance(method, LoRA) else None
        yield {
            "study": study.kind,
            "folder": study.place,
            "condition": condition.name,
            "method": record.method,
            "rank": None if lora is None else lora.rank,
            "targets": None if lora is None else "+".join(lora.targets),
            "learning_rate": record.learning_rate,
            "seed": record.seed,
            "status": record.status,
            "test_nll": record.test_nll,
            "test_reward": record.test_reward,
            "forgetting_nll": trial.forgetting_nll,
            "steps": record.steps,
            "tokens": record.tokens,
            "seconds": record.seconds,
            "trainable_parameters": record.trainable_parameters,
        }


def _curves(studies: Sequence[Placed]) -> Iterator[dict[str, Any]]:
    for study, condition, trial in _placed(studies):
        for step, loss in trial.test.items():
            samples = trial.samples.get(step)
            yield {
                "study": study.kind,
                "folder": study.place,
                "condition": condition.name,
                "method": trial.record.method,
                "learning_rate": trial.record.learning_rate,
                "seed": trial.record.seed,
                "step": step,
                "test_nll": None if condition.rewarded else loss,
                "test_reward": 0.0 - loss if condition.rewarded else None,
                "train_nll": trial.train.get(step),
                "train_reward": None if samples is None else samples.reward,
            }


def _claims(studies: Sequence[Placed]) -> Iterator[dict[str, Any]]:
    for study in studies:
        if study.evidence is None:
            raise SpecError(f"--table claims: {study.place} is a compare, which has a verdict and no claims.")
        for claim in judge_study(study.evidence).claims:
            found = claim.estimate
            yield {
                "study": study.kind,
                "folder": study.place,
                "claim": claim.statement.key,
                "sentence": claim.statement.sentence,
                "statistic": claim.statement.statistic,
                "unit": claim.statement.unit,
                "holds_if": claim.statement.threshold,
                "ruling": claim.ruling,
                "value": None if found is None else found.value,
                "low": None if found is None else found.low,
                "high": None if found is None else found.high,
                "n": None if found is None else found.n,
                "p": claim.p,
                "holm": claim.holm,
                "corrected": claim.corrected,
                "note": claim.note,
            }


_ROWS = {"trials": _trials, "curves": _curves, "claims": _claims}


def _placed(studies: Sequence[Placed]) -> Iterator[tuple[Placed, Condition, Trial]]:
    for study in studies:
        for condition in study.conditions:
            for trial in condition.trials:
                yield study, condition, trial


def _optuna(studies: Sequence[Placed], target: Path) -> int:
    try:
        import optuna
    except ImportError:
        raise SpecError(f"--out {target}: needs optuna. Install it by `pip install lowregret[track]`.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rates = optuna.distributions.FloatDistribution(1e-12, 1e3, log=True)
    seeds = optuna.distributions.IntDistribution(0, 2**31)
    directions = optuna.study.StudyDirection
    states = {"finished": optuna.trial.TrialState.COMPLETE, "pruned": optuna.trial.TrialState.PRUNED}
    written = 0
    with replacing(target) as partial:
        storage = optuna.storages.RDBStorage(f"sqlite:///{partial}")
        kinds = Counter(study.kind for study in studies)
        stored: dict[str, Any] = {}
        for study, condition, trial in _placed(studies):
            record = trial.record
            own = f"{study.kind} ({study.place})" if kinds[study.kind] > 1 else study.kind
            name = f"{own} {condition.name} {record.method}"
            if name not in stored:
                direction = directions.MAXIMIZE if condition.rewarded else directions.MINIMIZE
                stored[name] = optuna.create_study(storage=storage, study_name=name, direction=direction)
            state = states.get(record.status, optuna.trial.TrialState.FAIL)
            whole = state == optuna.trial.TrialState.COMPLETE
            kept = optuna.trial.create_trial(
                state=state,
                value=(record.test_reward if condition.rewarded else record.test_nll) if whole else None,
                params={"learning_rate": record.learning_rate, "seed": record.seed},
                distributions={"learning_rate": rates, "seed": seeds},
                intermediate_values={
                    step: 0.0 - loss if condition.rewarded else loss
                    for step, loss in trial.test.items()
                    if math.isfinite(loss)
                },
                user_attrs={"id": record.id, "status": record.status, "seconds": record.seconds, "folder": study.place},
            )
            stored[name].add_trial(kept)
            written += 1
        storage.remove_session()
        storage.engine.dispose()
    return written
