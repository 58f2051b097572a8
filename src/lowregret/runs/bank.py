"""The bank: finished comparisons, each with the curves of its search, by which forecasts are made and calibrated.

A bank is a file of JSON lines, a comparison each. None says whose data it was: no text of a row is in it, no path, and
no name that the user gave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import ConfigDict, Field, ValidationError

from lowregret.errors import RecordsError
from lowregret.foreign import read_text
from lowregret.runs.atomic import write_bytes
from lowregret.spec import Spec
from lowregret.strict_json import to_json

VERSION = 1
"""Of an entry's shape: one of another is not read."""
_REMEDY = "Bring the file back, or name another bank by --bank."


class _Kept(Spec):
    model_config = ConfigDict(allow_inf_nan=False)


class RateCurve(_Kept):
    """A trial of the search."""

    learning_rate: float = Field(gt=0)
    losses: Mapping[int, float]
    """Step → held-out nats per supervised token; of a trial that diverged, as far as it came."""


class BankMethod(_Kept):
    """One method of a comparison."""

    name: str
    parameters: int = Field(gt=0)
    """Numbers that trained."""
    curves: tuple[RateCurve, ...]
    """Of the search's seed, by learning rate."""
    loss: float | None = None
    """At the best learning rate, mean over the seeds; None where there is none."""
    regret_nats: float | None = None
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
    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    epochs: float = Field(gt=0)
    supervised_tokens: int = Field(gt=0)
    """Of one pass over the training data."""
    fact_bits: float | None = None
    """Of the training data, where whoever made them knows."""
    base_nll: float
    """Held-out loss before training."""
    part: str = "fit"
    """`fit`, or which part was held out when a model of the regret was chosen: `data` or `base`."""
    methods: tuple[BankMethod, ...]

    def method(self, name: str) -> BankMethod | None:
        """By its name."""
        return next((found for found in self.methods if found.name == name), None)


def read_bank(path: Path) -> list[BankEntry]:
    """All entries of a bank; RecordsError names a line that is damaged or of another version."""
    return parse_bank(read_text(path, RecordsError, _REMEDY), str(path))


def parse_bank(text: str, source: str) -> list[BankEntry]:
    """The entries in a bank's lines; RecordsError names the line."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            entry = BankEntry.model_validate_json(line)
        except ValidationError as error:
            raise RecordsError(f"{source}:{number}: damaged ({error.errors()[0]['msg']}). {_REMEDY}") from None
        if entry.version != VERSION:
            raise RecordsError(
                f"{source}:{number}: is of version {entry.version} of the bank, and this lowregret reads {VERSION}. "
                "Add the run again with `lowregret bank add`."
            )
        found.append(entry)
    return found


def write_bank(path: Path, entries: Iterable[BankEntry]) -> None:
    """Replace a bank, atomically."""
    write_bytes(path, "".join(to_json(entry.model_dump(mode="json")) + "\n" for entry in entries).encode())


def added(entries: Sequence[BankEntry], new: BankEntry) -> list[BankEntry]:
    """The entries with a new one, which takes the place of the same comparison's."""
    return [*(entry for entry in entries if entry.identity != new.identity), new]
