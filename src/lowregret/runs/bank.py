"""The bank: finished comparisons, each with the curves of its search, by which forecasts are made and calibrated.

A bank is a file of JSON lines, a comparison each. None says whose data it was: no text of a row is in it, no path, and
no name that the user gave.
"""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, ValidationError

from lowregret import limits
from lowregret.errors import RecordsError
from lowregret.foreign import read_bytes
from lowregret.runs import portable
from lowregret.runs.atomic import write_bytes
from lowregret.runs.boundary import open_regular
from lowregret.runs.record import Record
from lowregret.spec import FullFT
from lowregret.strict_json import to_json

VERSION = 1
"""Of an entry's shape: one of another is not read."""
_REMEDY = "Bring the file back, or name another bank by --bank."
_MOST = 10**15
"""Numbers of a base, tokens of a pass, bits: above what there is, and below what float64 counts exactly."""
MOST_NATS = 1000.0
Nats = Annotated[float, Field(ge=-MOST_NATS, le=MOST_NATS)]
"""Per token: a vocabulary of e¹⁰⁰⁰ tokens, guessed uniformly."""


class _Kept(Record):
    model_config = ConfigDict(allow_inf_nan=False)


class _Versioned(Record):
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
    """Against plain full fine-tuning, as the verdict has it."""
    ci95: tuple[float, float] | None = None

    @property
    def is_lora(self) -> bool:
        """Whether it is what forecasts are of: full fine-tuning by another optimizer has a regret, too."""
        return is_lora(self.name)


def is_lora(name: str) -> bool:
    """By its spelling, which is all that a bank keeps of a method."""
    return name.partition(":")[0] == "lora"


class BankEntry(_Kept):
    """A finished comparison."""

    version: int = VERSION
    identity: str
    """Of the run (`runs.manifest.identity`), whatever its methods, rates and seeds: it says nothing of itself."""
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

    def measured(self) -> tuple[BankMethod, ...]:
        """Its LoRAs that a forecast can be made from: with a regret against a full fine-tuning that has a loss."""
        whole = self.method(FullFT().name)
        if whole is None or whole.loss is None:
            return ()
        return tuple(method for method in self.methods if method.is_lora and method.regret_nats is not None)


def read_bank(path: Path) -> list[BankEntry]:
    """All entries of a bank; RecordsError names a line that is damaged or of another version, or a file that is not
    there."""
    return parse_bank(_content(path), str(path))


def parse_bank(content: bytes | str, source: str) -> list[BankEntry]:
    """The entries in a bank's lines, of which blank ones are none; RecordsError names the line."""
    return [_entry(line, source, number) for number, line in _lines(content)]


def mend_bank(path: Path) -> tuple[list[BankEntry], str]:
    """For who adds to a bank: the entries in the lines that can be read, and what is to be said of the others.

    Where a line cannot be read the file is kept as it is, as FILE.unreadable or the next such name that is free, so
    that the bank may be written anew. RecordsError when the file itself cannot be read.
    """
    content, found, problems = _content(path), [], []
    for number, line in _lines(content):
        try:
            found.append(_entry(line, str(path), number))
        except RecordsError as error:
            said = str(error).removeprefix(f"{path}:")
            problems.append(said.partition(". Delete the line")[0])
    if not problems:
        return found, ""
    kept = _free_name(path)
    write_bytes(kept, content)
    what = "1 line" if len(problems) == 1 else f"{len(problems)} lines"
    return found, (
        f"{path}: {what} cannot be read (line {problems[0]}). The file as it was is kept as {kept}, and what could be "
        "read of it stays in the bank. Add the other runs again: lowregret bank add RUN."
    )


def _content(path: Path) -> bytes:
    try:
        return read_bytes(path, RecordsError, _REMEDY)
    except FileNotFoundError:
        raise RecordsError(f"{path}: no bank is there. {_REMEDY}") from None


def _lines(content: bytes | str) -> Iterator[tuple[int, bytes]]:
    lines = (content.encode() if isinstance(content, str) else content).split(b"\n")
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _entry(line: bytes, source: str, number: int) -> BankEntry:
    remedy = (
        f"Delete the line, or add a run (`lowregret bank add RUN --bank {shlex.quote(source)}`): the lines that can "
        "be read stay, and the file as it is will be kept beside the bank."
    )
    try:
        version = _Versioned.model_validate_json(line).version
        if version != VERSION:  # its fields may be others
            raise RecordsError(
                f"{source}:{number}: is of version {version} of the bank, and this lowregret reads {VERSION}. {remedy}"
            )
        return BankEntry.model_validate_json(line)
    except ValidationError as error:
        raise RecordsError(f"{source}:{number}: damaged ({error.errors()[0]['msg']}). {remedy}") from None


def _free_name(path: Path) -> Path:
    """FILE.unreadable, or FILE.unreadable.2 and so on where that is taken."""
    names = (f"{path.name}.unreadable{'' if count == 1 else f'.{count}'}" for count in itertools.count(1))
    return next(place for name in names if not os.path.lexists(place := path.with_name(name)))


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
    """The entries with a new one.

    Other entries of the same run, of other methods, rates or seeds, keep the LoRAs that the new one has not measured,
    with the full fine-tuning that they were measured beside: two entries, for two comparisons differ in their curves
    and may differ in their held-out examples. A LoRA that the new one has measured is taken from it alone.
    """
    again = frozenset(method.name for method in new.measured())
    others = (_without(entry, again) if entry.identity == new.identity else entry for entry in entries)
    return [*(entry for entry in others if entry is not None), new]


def _without(entry: BankEntry, names: frozenset[str]) -> BankEntry | None:
    """An entry without these LoRAs; None when it has measured no other."""
    if not names & {method.name for method in entry.measured()}:
        return entry
    left = entry.model_copy(update={"methods": tuple(m for m in entry.methods if m.name not in names)})
    return left if left.measured() else None
