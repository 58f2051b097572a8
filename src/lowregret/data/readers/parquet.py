"""Parquet, by Arrow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowregret.data.readers.arrow_rows import BATCH, require_rows, rows_of
from lowregret.data.readers.base import NumberedRow, number_rows
from lowregret.data.readers.compression import expands, first_bytes, most_bytes
from lowregret.data.readers.files import FileRows, file_reader
from lowregret.errors import DataError
from lowregret.foreign import boundary

_BATCH_BYTES = 256 * 10**6
_FEWEST = 4


def look(source: str) -> FileRows:
    """The rows of the table."""
    first_bytes(source)
    return FileRows(lambda: _read(source), "row")


def _read(source: str) -> Iterator[NumberedRow]:
    with boundary(DataError, source, "not a readable Parquet file", "Fetch or make it again."):
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(source) as file:
            yield from number_rows(rows_of(source, file.iter_batches(_check(source, file.metadata))))


def _check(source: str, metadata: Any) -> int:
    """How many rows to read at a time. Raises DataError when the footer says more than the file can hold.

    A value that stands once in the file may be that of every row: so a batch is no larger than what a column of its
    largest group has, and few rows are read at a time where that is much.
    """
    require_rows(source, metadata.num_rows)
    groups = [metadata.row_group(rank) for rank in range(metadata.num_row_groups)]
    sizes = [int(group.column(rank).total_uncompressed_size) for group in groups for rank in range(group.num_columns)]
    if (most := most_bytes(source)) < sum(sizes):
        raise expands(source, most)
    return min(max(_BATCH_BYTES // max(*sizes, 1, 1), _FEWEST), BATCH)


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """A table of the rows; their numbers."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
    return list(range(1, len(rows) + 1))


READER = file_reader((".parquet",), "row", look, write)
