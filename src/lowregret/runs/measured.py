"""The small files of a run beside its records: their shapes, and how they are read."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from lowregret.runs.atomic import as_record, read_json, read_record, write_json
from lowregret.runs.files import EXPERTS, FORGETTING, PRIORS, STORE, TRACKING
from lowregret.runs.record import Record
from lowregret.spec.study import PositiveRate

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rank = Annotated[str, Field(pattern=r"^[1-9]\d{0,5}$")]
AGAIN = "Delete the file and run the same command again."


class Timing(Record):
    """timings/width-N.json: what steps on a base of this hidden size took, and what they hold."""

    model_config = ConfigDict(extra="allow")

    width: int = Field(ge=1)
    full_seconds: tuple[Positive, ...] = Field(min_length=1)
    """Of FullFT's steps, which were taken in turns with the others."""
    lora_seconds: dict[Rank, tuple[Positive, ...]]
    theory: dict[Rank, Positive]
    """Multiply-adds of a LoRA step over those of a FullFT step."""
    full_bytes: Positive
    lora_bytes: dict[Rank, Positive]

    @model_validator(mode="after")
    def _in_turns(self) -> Timing:
        turns = len(self.full_seconds)
        uneven = [rank for rank, seconds in self.lora_seconds.items() if len(seconds) != turns]
        if uneven:
            raise ValueError(f"lora_seconds.{uneven[0]} has not the {turns} steps of full_seconds")
        missing = sorted(self.lora_seconds.keys() - self.theory.keys())
        if missing:
            raise ValueError(f"theory lacks the rank {missing[0]} of lora_seconds")
        return self


def read_timings(folder: Path) -> tuple[dict[str, Any], ...]:
    """What a folder of timings says, by width; RecordsError names a file that is damaged."""
    found = []
    for file in sorted(folder.glob("*.json")):
        content = read_json(file)
        as_record(Timing, content, file, AGAIN)
        found.append(dict(content))
    return tuple(found)


class _Priors(Record):
    """priors.json, as a field."""

    priors: dict[str, PositiveRate]


def read_priors(group: Path) -> dict[str, float]:
    """Method → the learning rate that its search started from, of a group's folder; {} where nothing says it.
    RecordsError when the file is damaged."""
    path = group / PRIORS
    return dict(as_record(_Priors, {"priors": read_json(path)}, path, AGAIN).priors) if path.exists() else {}


class _Forgetting(Record):
    """forgetting.json."""

    test_nll: float | None = Field(allow_inf_nan=False)


def read_forgetting(trial: Path) -> float | None:
    """A trial's held-out loss on what the base was trained on; None where nobody measured it, or it was no number.
    RecordsError when the file is damaged."""
    path = trial / FORGETTING
    return read_record(_Forgetting, path).test_nll if path.exists() else None


class ExpertFacts(Record):
    """What the experts of a module got in training."""

    untrained: tuple[int, ...]
    """Those that no token with a gradient was sent to."""
    pairs: tuple[int, ...]
    """By expert, tokens that were sent to it."""
    reached: tuple[int, ...]
    """By expert, those of them with a gradient."""


class _Experts(Record):
    """experts.json, as a field."""

    modules: dict[str, ExpertFacts]


def read_experts(trial: Path) -> dict[str, ExpertFacts]:
    """Module → what its experts got; {} for a trial of a base without. RecordsError when the file is damaged."""
    path = trial / EXPERTS
    return dict(as_record(_Experts, {"modules": read_json(path)}, path).modules) if path.exists() else {}


class _Copy(Record):
    """store.json."""

    store: str


def read_store(study: Path) -> str | None:
    """The address of the store of which a study's folder is a copy; None for one that is kept here alone. RecordsError
    when the file is damaged."""
    path = study / STORE
    return read_record(_Copy, path).store if path.is_file() else None


class _Tracked(Record):
    """tracking.json."""

    id: str


def tracking_id(folder: Path) -> str:
    """By which a tracker finds a folder's runs again, made where there is none. RecordsError when the file is
    damaged."""
    path = folder / TRACKING
    if not path.exists():
        write_json(path, {"id": secrets.token_hex(6)})
    return read_record(_Tracked, path).id
