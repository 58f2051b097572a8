"""A dataset that the `datasets` library saved to a folder (`save_to_disk`): one table, or a table a split."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowregret.data.readers.arrow_rows import BATCH, rows_of
from lowregret.data.readers.base import (
    Advice,
    NumberedRow,
    OpenSource,
    Reader,
    SampleSource,
    choose_split,
    number_rows,
)
from lowregret.data.readers.files import hash_files
from lowregret.errors import DataError
from lowregret.foreign import boundary, require_file

_ONE, _SEVERAL = "state.json", "dataset_dict.json"


def claims(source: str) -> bool:
    """A folder with the files by which the library knows it."""
    return any(os.path.isfile(os.path.join(source, name)) for name in (_ONE, _SEVERAL))


def open_saved(source: str, advice: Advice) -> OpenSource:
    """A dataset without splits of its own, or those of a DatasetDict. Raises DataError for a folder that is damaged."""
    import datasets

    for folder, _, names in os.walk(source):
        for name in names:
            require_file(os.path.join(folder, name), DataError)
    with boundary(DataError, source, "is a dataset that was saved to disk, but cannot be read", "Save it again."):
        found = datasets.load_from_disk(source)
    splits = tuple(map(str, found)) if isinstance(found, datasets.DatasetDict) else None

    def choose(split: str) -> Any:
        remedy = f"Each is a folder of its own: {os.path.join(source, splits[0])}." if splits else ""
        return found if splits is None else choose_split(source, found, split, remedy)

    def load(split: str) -> Iterator[NumberedRow]:
        return number_rows(dataset_rows(source, choose(split)))

    def fingerprint(split: str) -> str:
        return hash_files([file["filename"] for file in choose(split).cache_files], READER.format)

    return OpenSource(source, READER.format, READER.numbering, splits, load, fingerprint)


def dataset_rows(source: str, dataset: Any) -> Iterator[dict[str, Any]]:
    """The rows of a dataset of the library, as they are stored: pictures and sounds are not decoded."""
    with boundary(DataError, source, "its rows cannot be read", "Save or fetch it again."):
        tables = dataset.with_format("arrow").iter(BATCH)
        yield from rows_of(source, (batch for table in tables for batch in table.to_batches()))


def sample(folder: Path, rows: Sequence[Mapping[str, Any]]) -> SampleSource:
    """A DatasetDict of a training split of these rows, and a test split of the first."""
    import datasets

    dataset = datasets.Dataset.from_list([dict(row) for row in rows])
    home = folder / "saved"
    datasets.DatasetDict(train=dataset, test=dataset.select([0])).save_to_disk(str(home))
    return SampleSource(str(home), [dict(row) for row in rows], list(range(1, len(rows) + 1)))


READER = Reader(
    format="saved dataset",
    numbering="row",
    spelling="a folder that `save_to_disk` wrote",
    open=open_saved,
    sample=sample,
    claims=claims,
)
