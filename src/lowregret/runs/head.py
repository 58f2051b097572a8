"""The shape of spec.json, as far as it is read before anybody knows what kind of run it is of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from lowregret import limits
from lowregret.runs.record import Record

Count = Annotated[int, Field(ge=0, le=limits.EXAMPLES)]


class _Open(Record):
    """Holds more than is named here; what is named has the type that JSON has."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Data(_Open):
    train: str | None = None
    eval: str | None = None
    max_eval: Count | None = None


class _Asked(_Open):
    model: str | None = None
    data: _Data | None = None
    objective: dict[str, Any] | None = None
    methods: list[Any] | None = None


class _Resolved(_Open):
    """What the spec leaves open and the run decided; a version has more of it than one before."""

    steps: Count | None = None
    train_examples: Count | None = None
    test_examples: Count | None = None
    search_examples: Count | None = None
    held_out: Count | None = None
    train_data: str | None = None
    test_data: str | None = None
    evals: list[Annotated[int, Field(ge=1, le=limits.STEPS)]] | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    priors: dict[str, Annotated[float, Field(gt=0)]] | None = None


class Head(_Open):
    """spec.json."""

    lowregret: str | None = None
    command: str | None = None
    spec: _Asked
    resolved: _Resolved | None = None
    extended: list[dict[str, Any]] | None = None
