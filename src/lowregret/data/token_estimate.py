"""Tokens of a text by what it is written in, where there is no tokenizer to ask. Torch-free.

The factors are those of published vocabularies, in `token_factors.json`, measured by
`python -m benchmarks.tokens_by_script`: docs/findings/2026-11-29-tokens-by-script.md. A vocabulary is known by its
rows; for one that is not there the range spans those that are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("token_factors.json")
_LARGE = 65_536
"""Rows: smaller vocabularies have words of English or of a few languages only."""


@dataclass(frozen=True)
class Estimate:
    """Tokens, and how far the truth may be."""

    tokens: float
    low: float
    high: float

    @property
    def off(self) -> float:
        """The farther end of the range, as a share of the tokens."""
        return max(self.high - self.tokens, self.tokens - self.low) / max(self.tokens, 1e-9)


@dataclass(frozen=True)
class Factors:
    """Of one vocabulary."""

    vocabulary: str
    known: bool
    factors: Mapping[str, tuple[float, float]]
    """unit → (tokens, the factor less one by which it may be wrong either way)."""


@cache
def _table() -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table


@cache
def factors_of(rows: int | None) -> Factors:
    """The factors of the vocabulary of so many rows; None is one of which nothing is known."""
    table = _table()
    entry = next((entry for entry in table if rows in entry["rows"]), None)
    known = entry is not None
    if entry is None:
        entry = table[-2] if rows is not None and rows > _LARGE else table[-1]
    return Factors(entry["vocabulary"], known, {unit: (value, off) for unit, (value, off) in entry["factors"].items()})


def estimate(units: Mapping[str, float], rows: int | None) -> Estimate:
    """Tokens of a text of these units (`scripts.units`). Errors of units are added: they may all go the same way."""
    factors = factors_of(rows).factors
    tokens = low = high = 0.0
    for unit, count in units.items():
        value, off = factors[unit]
        tokens += value * count
        low += value * count / (1 + off)
        high += value * count * (1 + off)
    return Estimate(tokens, low, high)


_WORDS = {
    "english word": "English or code",
    "latin major": "German, French, Spanish and the like",
    "latin other": "other languages in Latin letters",
    "accent": "other languages in Latin letters",
    "latin unknown": "Latin letters in no language that is told",
    "cyrillic other": "Slavic languages in Cyrillic",
    "cyrillic asian": "other languages in Cyrillic",
    "arabic other": "Urdu and the like",
    "japanese": "Japanese",
    "kana": "Japanese",
    "other": "other scripts",
}
_MARKS = {"mark": "marks", "symbol": "marks", "digit": "digits", "group": "digits", "emoji": "emoji"}
_SHOWN = 0.1


def describe(units: Mapping[str, float], rows: int | None) -> str:
    """Of what the tokens are, a tenth and more of them: `93 % Russian`."""
    factors = factors_of(rows).factors
    shares: dict[str, float] = {}
    for unit, count in units.items():
        said = _WORDS.get(unit) or _MARKS.get(unit) or unit.capitalize()
        shares[said] = shares.get(said, 0.0) + count * factors[unit][0]
    total = max(sum(shares.values()), 1e-9)
    ordered = sorted(shares.items(), key=lambda pair: -pair[1])
    return ", ".join(
        f"{value / total:.0%} {said}".replace("%", " %") for said, value in ordered if value >= _SHOWN * total
    )
