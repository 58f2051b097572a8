"""The bank: finished comparisons, each with the curves of its search, by which forecasts are made and calibrated.

A bank is a file of JSON lines, a comparison each. None says whose data it was: no text of a row is in it, no path, and
no name that the user gave.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, ValidationError

from lowregret import limits
from lowregret.errors import RecordsError
from lowregret.foreign import read_text
from lowregret.runs import portable
from lowregret.runs.atomic import write_bytes
from lowregret.runs.boundary import open_regular
from lowregret.spec import Spec
from lowregret.strict_json import to_json

VERSION = 1
"""Of an entry's shape: one of another is not read."""
_REMEDY = "Bring the file back, or name another bank by --bank."
_MOST = 10**15
"""Numbers of a base, tokens of a pass, bits: above what there is, and below what float64 counts exactly."""
MOST_NATS = 1000.0
Nats = Annotated[float, Field(ge=-MOST_NATS, le=MOST_NATS)]
"""Per token: a vocabulary of e¹⁰⁰⁰ tokens, guessed uniformly."""


class _Kept(Spec):
    model_config = ConfigDict(allow_inf_nan=False)


class _Versioned(Spec):
    model_config = ConfigDict(extra="ignore")

    version: int = Field(default=VERSION, le=_MOST)


class RateCurve(_Kept):
    """A trial of the search."""

    learning_rate: float = Field(gt=0)
    losses: Mapping[Annotated[int, Field(ge=0, le=limits.STEPS)], Nats]
    """Step → held-out nats per supervised token; of a trial that diverged, as far as it came."""


class BankMethod(_Kept):
    """One method of a comparison."""

    name: str
    parameters: int = Field(gt=0, le=_MOST)
    """Numbers that trained."""
    curves: tuple[RateCurve, ...]
    """Of the search's seed, by learning rate."""
    loss: Nats | None = None
    """At the best learning rate, mean over the seeds; None where there is none."""
    regret_nats: Nats | None = None
    """For a LoRA: against the best FullFT, as the verdict has it."""
    ci95: tuple[float, float] | None = None


class BankEntry(_Kept):
    """A finished comparison."""

    version: int = VERSION
    identity: str
    """Of the run (`runs.manifest.identity`): the same comparison is not taken twice."""
    base: str
    """The base's weights and configuration, by digest."""
    data: str
    """What it was trained on, by digest."""
    steps: int = Field(gt=0, le=limits.STEPS)
    batch_size: int = Field(gt=0, le=limits.ROWS)
    epochs: float = Field(gt=0, le=_MOST)
    supervised_tokens: int = Field(gt=0, le=_MOST)
    """Of one pass over the training data."""
    fact_bits: float | None = Field(default=None, gt=0, le=_MOST)
    """Of the training data, where whoever made them knows."""
    base_nll: Nats = Field(gt=0)
    """Held-out loss before training."""
    part: str = "fit"
    """`fit`, or which part was held out when a model of the regret was chosen: `data` or `base`."""
    methods: tuple[BankMethod, ...]

    def method(self, name: str) -> BankMethod | None:
        """By its name."""
        return next((found for found in self.methods if found.name == name), None)


def read_bank(path: Path) -> list[BankEntry]:
    """All entries of a bank; RecordsError names a line that is damaged or of another version, or a file that is not
    there."""
    try:
        return parse_bank(read_text(path, RecordsError, _REMEDY), str(path))
    except FileNotFoundError:
        raise RecordsError(f"{path}: no bank is there. {_REMEDY}") from None


def parse_bank(text: str, source: str) -> list[BankEntry]:
    """The entries in a bank's lines; RecordsError names the line."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            version = _Versioned.model_validate_json(line).version
            if version != VERSION:  # its fields may be others
                raise RecordsError(
                    f"{source}:{number}: is of version {version} of the bank, and this lowregret reads {VERSION}. "
                    "Add the run again with `lowregret bank add`."
                )
            found.append(BankEntry.model_validate_json(line))
        except ValidationError as error:
            raise RecordsError(f"{source}:{number}: damaged ({error.errors()[0]['msg']}). {_REMEDY}") from None
    return found


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """A bank is read and replaced by one process at a time, or one would lose what another has added."""
    lock = open_regular(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT)
    try:
        portable.lock(lock, wait=True)
        yield
    finally:
        os.close(lock)


def write_bank(path: Path, entries: Iterable[BankEntry]) -> None:
    """Replace a bank, atomically."""
    write_bytes(path, "".join(to_json(entry.model_dump(mode="json")) + "\n" for entry in entries).encode())


def added(entries: Sequence[BankEntry], new: BankEntry) -> list[BankEntry]:
    """The entries with a new one, which takes the place of the same comparison's."""
    return [*(entry for entry in entries if entry.identity != new.identity), new]
