"""Arrow's tables → rows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from lowregret import limits
from lowregret.data.readers.compression import expands, most_bytes
from lowregret.errors import DataError

if TYPE_CHECKING:
    import pyarrow

BATCH = 1000
"""Rows that are held at a time."""
_TEXT_BYTES = 128 * 10**6
_GROWN = 16
"""Times what a compressed file may become: values that are stored once may be those of many rows."""


def require_rows(source: str, count: int) -> None:
    """Raises DataError for more rows than a file of this size holds, if they are not all alike."""
    most = max(limits.FEW_ROWS, os.path.getsize(source) // limits.BYTES_A_ROW)
    if count > most:
        raise DataError(
            f"says that it has {count:,} rows, in {os.path.getsize(source):,} bytes: rows of text take more. Write it "
            "again without the rows that repeat.",
            source=source,
        )


def rows_of(source: str, batches: Iterable[pyarrow.RecordBatch]) -> Iterator[dict[str, Any]]:
    """The rows, one batch in memory; DataError when their values come to far more than the file `source`
    holds. A field of a struct that is null is left out, for a struct has the fields of all its rows: the call of a tool
    would get the arguments of every other tool. Columns of JSON are decoded."""
    convert: dict[str, Any] | None = None
    size, most = 0, _GROWN * most_bytes(source) if os.path.isfile(source) else None
    for batch in batches:
        batch.validate(full=True)
        size += sum(map(_written, batch.columns))
        if most is not None and size > most:
            raise expands(source, most)
        if convert is None:
            found = {field.name: _converter(field.type) for field in batch.schema}
            convert = {name: converter for name, converter in found.items() if converter is not None}
        for piece in _pieces(batch):
            for row in piece.to_pylist():
                for name, converter in convert.items():
                    row[name] = converter(row[name])
                yield row


def _written(column: pyarrow.Array) -> int:
    """Bytes of a column's values, each as often as it is there."""
    import pyarrow

    if not isinstance(column, pyarrow.DictionaryArray):
        return int(column.nbytes)
    return int(column.dictionary.nbytes // max(len(column.dictionary), 1) * len(column))


def _pieces(batch: pyarrow.RecordBatch) -> Iterator[pyarrow.RecordBatch]:
    """Few rows at a time where each may hold a long value that the batch holds once."""
    import pyarrow

    shared = [column.dictionary.nbytes for column in batch.columns if isinstance(column, pyarrow.DictionaryArray)]
    rows = max(_TEXT_BYTES // max(*shared, 1, 1), 1)
    yield from (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))


def _converter(kind: pyarrow.DataType) -> Any:
    """What makes of a value of this type what was meant; None when it is that."""
    import pyarrow

    if isinstance(kind, pyarrow.JsonType):
        return lambda value: None if value is None else json.loads(value)
    if pyarrow.types.is_struct(kind):
        within = {field.name: _converter(field.type) for field in kind}
        return lambda value: None if value is None else _fields(value, within)
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        of_item = _converter(kind.value_type)
        if of_item is not None:
            return lambda value: None if value is None else [of_item(item) for item in value]
    return None


def _fields(value: dict[str, Any], within: dict[str, Any]) -> dict[str, Any]:
    return {
        name: item if within[name] is None else within[name](item) for name, item in value.items() if item is not None
    }
