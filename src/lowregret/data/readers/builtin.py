"""`builtin:NAME`: rows that a generator makes, see `lowregret.data.builtin`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowregret.data.builtin.registry import BUILTIN_PREFIX, load_builtin
from lowregret.data.readers.base import Advice, NumberedRow, OpenSource, Reader, SampleSource, choose_split, number_rows
from lowregret.strict_json import to_json


def open_builtin(source: str, advice: Advice) -> OpenSource:
    """Generate both splits. Raises DataError for an unknown name or option."""
    data = load_builtin(source)
    splits = {"train": data.train, "test": data.test}

    def load(split: str) -> Iterator[NumberedRow]:
        return number_rows(choose_split(source, splits, split))

    def fingerprint(split: str) -> str:
        # Of the rows, not of their name: a generator may change between versions.
        rows = to_json(choose_split(source, splits, split), sort_keys=True)
        return hashlib.blake2b(rows.encode(), digest_size=20).hexdigest()

    return OpenSource(source, READER.format, READER.numbering, tuple(splits), load, fingerprint)


def sample(folder: Path, rows: Sequence[Mapping[str, Any]]) -> SampleSource:
    """As many rows as asked for, but the generator's own."""
    source = f"{BUILTIN_PREFIX}arithmetic:size={len(rows)},test_size=1"
    generated = load_builtin(source).train
    return SampleSource(source, generated, list(range(1, len(generated) + 1)))


READER = Reader(
    format="builtin",
    numbering="row",
    spelling=f"{BUILTIN_PREFIX}NAME",
    open=open_builtin,
    sample=sample,
    prefix=BUILTIN_PREFIX,
)
