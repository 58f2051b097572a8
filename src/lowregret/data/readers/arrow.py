"""Arrow's own files: the stream format, which `datasets` writes, and the file format, which is Feather's too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowregret.data.readers.arrow_rows import BATCH, require_rows, rows_of
from lowregret.data.readers.base import NumberedRow, number_rows
from lowregret.data.readers.compression import first_bytes
from lowregret.data.readers.files import FileRows, file_reader
from lowregret.errors import DataError
from lowregret.foreign import boundary

_FILE_FORMAT = b"ARROW1"


def look(source: str) -> FileRows:
    """The rows of the table."""
    is_file = first_bytes(source).startswith(_FILE_FORMAT)
    return FileRows(lambda: _read(source, is_file), "row")


def _read(source: str, is_file: bool) -> Iterator[NumberedRow]:
    with boundary(DataError, source, "not a readable Arrow file", "Fetch or make it again."):
        import pyarrow

        with pyarrow.memory_map(source) as memory:
            yield from number_rows(rows_of(source, _batches(source, memory, is_file)))


def _batches(source: str, memory: Any, is_file: bool) -> Iterator[Any]:
    import pyarrow

    if is_file:
        reader = pyarrow.ipc.open_file(memory)
        whole = (reader.get_batch(rank) for rank in range(reader.num_record_batches))
    else:
        whole = iter(pyarrow.ipc.open_stream(memory))
    count = 0
    for batch in whole:
        count += batch.num_rows
        require_rows(source, count)
        yield from (batch.slice(start, BATCH) for start in range(0, batch.num_rows, BATCH))


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """A stream of the rows, in two batches; their numbers."""
    import pyarrow

    table = pyarrow.Table.from_pylist([dict(row) for row in rows])
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=max(1, len(rows) // 2))
    return list(range(1, len(rows) + 1))


READER = file_reader((".arrow",), "row", look, write)
