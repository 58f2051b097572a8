"""Which comparisons forecasts are made from: those that come with lowregret, and the user's own. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from lowregret.errors import LowregretError
from lowregret.folders import data_folder
from lowregret.runs.bank import BankEntry, added, parse_bank, read_bank
from lowregret.runs.files import BANK


@dataclass(frozen=True)
class Bank:
    """Entries of both."""

    entries: tuple[BankEntry, ...]
    own: int
    """How many of them are the user's."""

    def words(self) -> str:
        """`35 comparisons, 2 of them your own`."""
        mine = f", {self.own} of them your own" if self.own else ""
        return f"{len(self.entries)} comparisons{mine}"


def own_bank(named: Path | None = None) -> Path:
    """The user's bank: the file that is named, else `lowregret/bank.jsonl` where the user's data are."""
    return data_folder() / BANK if named is None else named


def bundled_bank() -> list[BankEntry]:
    """The comparisons that come with lowregret (`benchmarks.bank`)."""
    file = files("lowregret.analysis.forecast") / BANK
    return parse_bank(file.read_text(encoding="utf-8"), str(file))


def load_bank(named: Path | None = None) -> Bank:
    """The bundled comparisons and the user's, who may have measured some LoRAs of one of them again.

    RecordsError when the user's bank is damaged, or the one that is named is not there.
    """
    path = own_bank(named)
    own = read_bank(path) if named is not None or path.exists() else []
    mine: list[BankEntry] = []
    for entry in own:
        mine = added(mine, entry)
    found = bundled_bank()
    for entry in mine:
        found = added(found, entry)
    return Bank(tuple(found), len(mine))


def bank_if_readable(say: Callable[[str], None]) -> Bank | None:
    """`load_bank` for forecasts that decide nothing: None when the user's bank is damaged, and why is said."""
    try:
        return load_bank()
    except LowregretError as error:
        say(f"no forecast: {error}")
        return None
