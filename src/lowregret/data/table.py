"""Examples as columns of an Arrow table, in memory or mapped from a file; an `Example` is made when it is asked for.

Rows are stored whole: a view of the table cuts them to the longest length that is wanted, so one table serves all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import chain, pairwise
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lowregret.data.example import Example

SCHEMA = pa.schema(
    {
        "line": pa.int64(),
        "token_ids": pa.list_(pa.int32()),
        "supervised": pa.list_(pa.bool_()),
        "digest": pa.binary(16),
    }
)
"""A row's number in its source, its tokens before any cut, which of them count, and a hash of its tokens."""

_DIGEST = np.dtype("V16")


def record_batch(rows: Sequence[tuple[int, Example]]) -> pa.RecordBatch:
    """A batch of SCHEMA from (number, whole example) pairs."""
    counts = [len(example.token_ids) for _, example in rows]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    total = int(starts[-1])
    ids = np.fromiter(chain.from_iterable(example.token_ids for _, example in rows), np.int32, total)
    mask = np.fromiter(chain.from_iterable(example.supervised for _, example in rows), np.bool_, total)
    lines = np.array([line for line, _ in rows], dtype=np.int64)
    digests = b"".join(_digest(ids[start:stop]) for start, stop in pairwise(starts.tolist()))

    def listed(kind: pa.DataType, values: NDArray[Any]) -> pa.Array:
        inner = pa.Array.from_buffers(kind.value_type, total, [None, pa.py_buffer(values)])
        return pa.Array.from_buffers(kind, len(rows), [None, pa.py_buffer(starts)], children=[inner])

    columns = [
        pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(lines)]),
        listed(SCHEMA.field("token_ids").type, ids),
        listed(SCHEMA.field("supervised").type, np.packbits(mask, bitorder="little")),
        pa.Array.from_buffers(pa.binary(16), len(rows), [None, pa.py_buffer(digests)]),
    ]
    return pa.record_batch(columns, schema=SCHEMA)


def _digest(ids: NDArray[np.int32]) -> bytes:
    """128 bits: among a billion different rows two have the same with a chance of 1.5e-21, by the birthday bound."""
    return blake2b(ids.tobytes(), digest_size=16).digest()


class _Batch:
    """The columns of a record batch as arrays, without a copy.

    By their buffers, for pyarrow's own way to numpy imports pandas, which takes half a second. A batch begins where
    its buffers do: `record_batch` makes none that is a slice.
    """

    def __init__(self, batch: pa.RecordBatch) -> None:
        ids, supervised = batch.column("token_ids"), batch.column("supervised")
        rows, tokens = batch.num_rows, len(ids.values)
        self.starts: NDArray[np.int32] = np.frombuffer(ids.buffers()[1], np.int32, rows + 1)
        self.ids: NDArray[np.int32] = np.frombuffer(ids.values.buffers()[1], np.int32, tokens)
        self._bits: NDArray[np.uint8] = np.frombuffer(supervised.values.buffers()[1], np.uint8, -(-tokens // 8))
        self.lines: NDArray[np.int64] = np.frombuffer(batch.column("line").buffers()[1], np.int64, rows)
        self.digests: NDArray[np.void] = np.frombuffer(batch.column("digest").buffers()[1], _DIGEST, rows)

    def mask(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Of these tokens of the batch."""
        first = start // 8
        bits = np.unpackbits(self._bits[first : -(-stop // 8)], bitorder="little")
        return bits[start - 8 * first : stop - 8 * first].view(np.bool_)

    def example(self, row: int, limit: int) -> Example:
        start = int(self.starts[row])
        stop = min(int(self.starts[row + 1]), start + limit)
        return Example(tuple(self.ids[start:stop].tolist()), tuple(self.mask(start, stop).tolist()))

    def examples(self, rows: Sequence[int], limit: int) -> Iterator[Example]:
        """The same of many rows."""
        starts, ids, mask = self.starts.tolist(), self.ids.tolist(), self.mask(0, len(self.ids)).tolist()
        for row in rows:
            start = starts[row]
            stop = min(starts[row + 1], start + limit)
            yield Example(tuple(ids[start:stop]), tuple(mask[start:stop]))

    def supervised(self, limit: int) -> NDArray[np.int64]:
        """Supervised tokens of each row, of its first `limit`: int64 [rows]."""
        total = np.concatenate([[0], np.cumsum(self.mask(0, len(self.ids)))])
        stops = np.minimum(self.starts[1:], self.starts[:-1].astype(np.int64) + limit)
        counts: NDArray[np.int64] = total[stops] - total[self.starts[:-1]]
        return counts


class ExampleTable:
    """Rows of record batches of SCHEMA, as whole as they were encoded."""

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        self._batches = [_Batch(batch) for batch in batches]
        self._supervised: dict[int, NDArray[np.int64]] = {}
        self._firsts = [0]
        for batch in batches:
            self._firsts.append(self._firsts[-1] + batch.num_rows)

    def __len__(self) -> int:
        return self._firsts[-1]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row before any cut: int64 [rows]."""
        return _joined([np.diff(batch.starts).astype(np.int64) for batch in self._batches])

    def lines(self) -> NDArray[np.int64]:
        """Each row's number in its source: int64 [rows]."""
        return _joined([batch.lines for batch in self._batches])

    def supervised(self, limit: int) -> NDArray[np.int64]:
        """Supervised tokens among the first `limit` of each row: int64 [rows]."""
        if limit not in self._supervised:
            self._supervised[limit] = _joined([batch.supervised(limit) for batch in self._batches])
        return self._supervised[limit]

    def digests(self, rows: NDArray[np.int64], limit: int) -> NDArray[np.void]:
        """Of each of these rows a hash of its first `limit` tokens: 16 bytes [rows]."""
        found = np.zeros(len(rows), dtype=_DIGEST)
        place = 0
        for batch, inside in self._by_batch(rows):
            part = found[place : place + len(inside)]
            part[:] = batch.digests[inside]
            for cut in np.flatnonzero(np.diff(batch.starts)[inside] > limit).tolist():
                start = int(batch.starts[inside[cut]])
                part[cut] = np.void(_digest(batch.ids[start : start + limit]))
            place += len(inside)
        return found

    def example(self, row: int, limit: int) -> Example:
        """A row, cut to `limit` tokens."""
        place = bisect_right(self._firsts, row) - 1
        return self._batches[place].example(row - self._firsts[place], limit)

    def examples(self, rows: NDArray[np.int64], limit: int) -> Iterator[Example]:
        """The same of many rows."""
        for batch, inside in self._by_batch(rows):
            yield from batch.examples(inside.tolist(), limit)

    def _by_batch(self, rows: NDArray[np.int64]) -> Iterator[tuple[_Batch, NDArray[np.int64]]]:
        """Stretches of rows that lie in one batch, with the rows' numbers in it."""
        places = np.searchsorted(self._firsts, rows, side="right") - 1
        bounds = np.flatnonzero(np.diff(places)) + 1
        for start, stop in zip([0, *bounds.tolist()], [*bounds.tolist(), len(rows)], strict=True):
            if start < stop:
                place = int(places[start])
                yield self._batches[place], rows[start:stop] - self._firsts[place]


def _joined(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Examples(Sequence[Example]):
    """Rows of a table as examples, each cut to `limit` tokens: no more of them is in memory than is asked for."""

    table: ExampleTable
    rows: NDArray[np.int64]
    """Their numbers in the table: int64 [examples]."""
    limit: int

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice | NDArray[Any]) -> Examples: ...
    def __getitem__(self, index: int | slice | NDArray[Any]) -> Example | Examples:
        """One, or those of a slice, of positions or of a mask (bool [examples])."""
        if isinstance(index, slice | np.ndarray):
            return Examples(self.table, self.rows[index], self.limit)
        return self.table.example(int(self.rows[index]), self.limit)

    def __iter__(self) -> Iterator[Example]:
        return self.table.examples(self.rows, self.limit)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each: int64 [examples]."""
        return np.minimum(self.table.lengths[self.rows], self.limit)

    @cached_property
    def supervised(self) -> NDArray[np.int64]:
        """Supervised tokens of each: int64 [examples]."""
        return self.table.supervised(self.limit)[self.rows]

    def digests(self) -> NDArray[np.void]:
        """Of each a hash of its tokens: 16 bytes [examples]."""
        return self.table.digests(self.rows, self.limit)

    def repeats(self, others: Examples) -> NDArray[np.bool_]:
        """Whether the tokens of each are those of one of the others: bool [examples]."""
        found = pc.is_in(_binary(self.digests()), value_set=_binary(others.digests()))
        bits = np.unpackbits(np.frombuffer(found.buffers()[1], np.uint8), bitorder="little")
        return bits[: len(self)].view(np.bool_)


def _binary(digests: NDArray[np.void]) -> pa.Array:
    return pa.Array.from_buffers(pa.binary(16), len(digests), [None, pa.py_buffer(digests)])


def token_counts(examples: Sequence[Example]) -> NDArray[np.int64]:
    """Tokens of each example: int64 [examples]."""
    if isinstance(examples, Examples):
        return examples.lengths
    return np.array([len(example.token_ids) for example in examples], dtype=np.int64)


def supervised_counts(examples: Sequence[Example]) -> NDArray[np.int64]:
    """Supervised tokens of each example: int64 [examples]."""
    if isinstance(examples, Examples):
        return examples.supervised
    return np.array([example.supervised_tokens for example in examples], dtype=np.int64)


def select(examples: Sequence[Example], positions: Sequence[int]) -> Sequence[Example]:
    """The examples at these positions, in this order."""
    if isinstance(examples, Examples):
        return examples[np.asarray(positions, dtype=np.int64)]
    return tuple(examples[position] for position in positions)
