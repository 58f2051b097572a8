"""Parquet, by Arrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowregret.data.readers.base import NumberedRow, file_reader, first_line, number_rows
from lowregret.errors import DataError


def read(source: str) -> list[NumberedRow]:
    """The rows of the table. Raises DataError when Arrow cannot read the file."""
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(source).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"not a readable Parquet file ({first_line(error)}).", source=source) from None
    return number_rows(rows)


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """A table of the rows; their numbers."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
    return list(range(1, len(rows) + 1))


READER = file_reader(".parquet", "row", read, write)
