"""Parquet, by Arrow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowregret.data.readers.arrow_rows import BATCH, rows_of
from lowregret.data.readers.base import NumberedRow, first_line, number_rows
from lowregret.data.readers.compression import first_bytes
from lowregret.data.readers.files import FileRows, file_reader
from lowregret.errors import DataError


def look(source: str) -> FileRows:
    """The rows of the table."""
    first_bytes(source)
    return FileRows(lambda: _read(source), "row")


def _read(source: str) -> Iterator[NumberedRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            yield from number_rows(rows_of(file.iter_batches(BATCH)))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"not a readable Parquet file ({first_line(error)}).", source=source) from None


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """A table of the rows; their numbers."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
    return list(range(1, len(rows) + 1))


READER = file_reader((".parquet",), "row", look, write)
