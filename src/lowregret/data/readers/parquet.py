"""Parquet, by Arrow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowregret.data.readers.base import NumberedRow, file_reader, first_line, number_rows
from lowregret.errors import DataError

_BATCH = 1000
"""Rows that are held at a time."""


def read(source: str) -> Iterator[NumberedRow]:
    """The rows of the table. Raises DataError when Arrow cannot read the file."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            yield from number_rows(row for batch in file.iter_batches(_BATCH) for row in batch.to_pylist())
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"not a readable Parquet file ({first_line(error)}).", source=source) from None


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """A table of the rows; their numbers."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
    return list(range(1, len(rows) + 1))


READER = file_reader(".parquet", "row", read, write)
