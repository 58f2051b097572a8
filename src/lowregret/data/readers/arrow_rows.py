"""Arrow's tables → rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

BATCH = 1000
"""Rows that are held at a time."""


def rows_of(batches: Iterable[pyarrow.RecordBatch]) -> Iterator[dict[str, Any]]:
    """The rows, one batch in memory. A field of a struct that is null is left out, for a struct has the fields of all
    its rows: the call of a tool would get the arguments of every other tool. Columns of JSON are decoded."""
    convert: dict[str, Any] | None = None
    for batch in batches:
        if convert is None:
            found = {field.name: _converter(field.type) for field in batch.schema}
            convert = {name: converter for name, converter in found.items() if converter is not None}
        for row in batch.to_pylist():
            for name, converter in convert.items():
                row[name] = converter(row[name])
            yield row


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
