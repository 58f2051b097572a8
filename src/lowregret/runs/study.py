"""A study's folder: its trials, its base, and the environments that have run in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from lowregret.errors import RecordsError
from lowregret.runs.atomic import as_record, read_json, read_record, write_json
from lowregret.runs.boundary import within
from lowregret.runs.files import ADAPTER, BASE, ENVIRONMENT, GROUPS, METRICS, MODEL, TRIAL, TRIALS
from lowregret.runs.metrics import held_out_curve, read_metrics
from lowregret.runs.record import Record
from lowregret.runs.records import ExampleLosses, ExampleRewards, TrialRecord
from lowregret.runs.spelling import old_id
from lowregret.spec import FullFT, GroupSpec, TrialSpec

QUANTISED = "quantised"
"""In base.json: what it says of the base, by quantisation of it."""


def trial_folder(study: Path, trial: str) -> Path:
    """Where the trial of this id has its files; RecordsError when that would be elsewhere."""
    return within(study / TRIALS, trial)


def group_folder(study: Path, group: GroupSpec) -> Path:
    """Where a group of a study's trials has its files; RecordsError when that would be elsewhere."""
    return within(study / GROUPS, group.key)


def trial_name(study: Path, trial: TrialSpec) -> str:
    """The id that a trial has, or gets, in a study's folder: the one of before 0.3.0 where that is there."""
    old = old_id(trial)
    return old if trial_folder(study, old).exists() else trial.id


def shipped_folder(record: TrialRecord) -> str:
    """The folder, in a trial's or a run's, with what the trial has trained."""
    return MODEL if isinstance(record.spec.method, FullFT) else ADAPTER


def read_trials(study: Path) -> list[TrialRecord]:
    """Every trial of a study's folder, by id."""
    return [trial_record(folder) for folder in trial_folders(study)]


def trial_record(home: Path) -> TrialRecord:
    """The record of a trial's folder, whose name says which trial it is; RecordsError when the record says another."""
    record = read_record(TrialRecord, home / TRIAL)
    if record.id != home.name:
        raise RecordsError(
            f"{home / TRIAL}: field 'id' is {record.id!r}, but a trial is called as its folder is. Rename the folder "
            "back, or delete it and run the same command again."
        )
    return record


def read_examples(path: Path) -> ExampleLosses | ExampleRewards:
    """A trial's examples.json, of either kind."""
    content = read_json(path)
    rewarded = isinstance(content, dict) and "rewards" in content
    return read_record(ExampleRewards, path) if rewarded else read_record(ExampleLosses, path)


def read_curves(study: Path, records: Sequence[TrialRecord]) -> dict[str, dict[int, float]]:
    """The held-out curves of the finished ones of these trials, by id; step 0 is the base that each had, on the same
    examples."""
    facts = base_facts(study)

    def start(record: TrialRecord) -> dict[int, float]:
        quantisation = record.spec.method.quantisation
        own = facts if quantisation == "none" else (facts.get(QUANTISED) or {}).get(quantisation, {})
        base = own.get("search_nll", own.get("test_nll"))
        return {} if base is None else {0: base}

    done = [record for record in records if record.status == "finished"]
    return {record.id: start(record) | held_out_curve(trial_folder(study, record.id) / METRICS) for record in done}


def quantised_starts(study: Path) -> dict[str, float]:
    """Quantisation → held-out nats per supervised token of the base in it, where that was measured."""
    return {name: own["test_nll"] for name, own in (base_facts(study).get(QUANTISED) or {}).items()}


@dataclass(frozen=True)
class Costs:
    """What the steps of a study's methods cost, beside the time that each trial recorded."""

    multiply_adds: Mapping[str, float] = field(default_factory=dict)
    """Method → of a training token."""
    price_per_hour: float | None = None
    """Of the machine, dollars; None where it is not known."""


NO_COSTS = Costs()


def read_costs(study: Path) -> Costs:
    """What base.json notes of them; nothing in folders of versions that did not."""
    facts = base_facts(study)
    return Costs(facts.get("multiply_adds") or {}, facts.get("price_per_hour"))


class _Quantised(Record):
    """What of a base in a quantisation is read by name."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    test_nll: float


class _BaseFacts(Record):
    """What of base.json is read by name; a question may note more."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    objective: str | None = None
    test_nll: float | None = None
    search_nll: float | None = None
    forgetting_nll: float | None = None
    fact_bits: float | None = None
    supervised_tokens: int | None = None
    hidden_size: Annotated[int | float, Field(gt=0)] | None = None
    price_per_hour: float | None = None
    multiply_adds: dict[str, float] | None = None
    quantised: dict[str, _Quantised] | None = None


class _Environments(Record):
    """environment.json."""

    sessions: tuple[dict[str, str | int | float | None], ...] = Field(min_length=1)


def base_facts(study: Path) -> dict[str, Any]:
    """What base.json says; {} where there is none. RecordsError when it is damaged."""
    path = study / BASE
    if not path.exists():
        return {}
    found = read_json(path)
    as_record(_BaseFacts, found, path)
    return dict(found)


def sessions_of(study: Path) -> tuple[dict[str, Any], ...]:
    """What environment.json says, session by session; none where there is none. RecordsError when it is damaged."""
    path = study / ENVIRONMENT
    return read_record(_Environments, path).sessions if path.exists() else ()


def note_base(study: Path, **facts: Any) -> None:
    """Add facts about the base to base.json, which is there."""
    found = base_facts(study)
    if found != found | facts:
        write_json(study / BASE, found | facts)


def note_environment(study: Path, session: dict[str, str | int]) -> None:
    """environment.json: every distinct environment that has run trials of this study, in order."""
    known = sessions_of(study)
    if session not in known:
        write_json(study / ENVIRONMENT, {"sessions": [*known, session]})


def environment_of(study: Path) -> dict[str, Any]:
    """The first session's; what differed in a later one is added as `<key>, session 2`."""
    first, *later = read_record(_Environments, study / ENVIRONMENT).sessions
    changes = {
        f"{key}, session {number}": value
        for number, session in enumerate(later, start=2)
        for key, value in session.items()
        if first.get(key) != value
    }
    return {**first, **changes}


def trial_folders(folder: Path) -> list[Path]:
    """The folders of a compare's or a group's trials that have a record, by name."""
    return sorted(file.parent for file in (folder / TRIALS).glob(f"*/{TRIAL}"))


def start_loss(folder: Path) -> float | None:
    """The base's held-out nats per supervised token, or minus its held-out reward; None when nobody measured it.

    With reinforcement learning every trial is evaluated before its first step, by the same random numbers: LoRAs and
    FullFT start as the base, so the first trial's evaluation is the base's. RecordsError names a damaged base.json.
    """
    path = folder / BASE
    if path.exists():
        found = base_facts(folder)
        nll = found.get("test_nll")
        if isinstance(nll, float):
            return nll
        if found.get("objective") != "rl":
            raise RecordsError(f"{path}: holds no finite 'test_nll'. Delete the file and run the same command again.")
    for curve in sorted((folder / TRIALS).glob(f"*/{METRICS}")):
        if (curve.parent / TRIAL).exists() and trial_record(curve.parent).spec.method.quantisation != "none":
            continue
        first = next(iter(read_metrics(curve)), None)
        if first is not None and first.step == 0 and first.test_loss is not None:
            return first.test_loss
    return None
