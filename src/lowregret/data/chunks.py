"""Rows encoded some hundreds at a time, here or in other processes: in order, and the same wherever it is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lowregret.data.chat.encoding import encode_rows
from lowregret.data.example import Example
from lowregret.data.sources import Row
from lowregret.data.table import record_batch
from lowregret.data.worker import Lost, Worker
from lowregret.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK_ROWS, CHUNK_CHARACTERS = 1024, 1_000_000
"""A chunk ends after so many rows, or with the row that brings it to so many characters."""
ALONE = 8
"""Chunks before other processes help: about two seconds, as long as these take to start."""


@dataclass(frozen=True)
class EncodedChunk:
    """Some rows, encoded whole."""

    batch: pa.RecordBatch
    """Those that hold something to learn."""
    rows: int
    """How many the chat template took."""
    refused: list[tuple[int, str]] = field(default_factory=list)
    """(number, reason) of the others."""
    open_turns: int = 0
    remarks: dict[str, tuple[int, int]] = field(default_factory=dict)
    """What → (rows of which it is true, the number of the first of them)."""


def encode_chunk(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> EncodedChunk:
    """The rows as a batch of the table, and what was found on the way."""
    kept: list[tuple[int, Example]] = []
    refused: list[tuple[int, str]] = []
    remarks: dict[str, tuple[int, int]] = {}
    open_turns = 0
    for row, result in zip(rows, encode_rows(rows, tokenizer), strict=True):
        if isinstance(result, DataError):
            refused.append((row.line, str(result)))
            continue
        open_turns += result.open_turns
        for remark in dict.fromkeys(result.remarks):
            count, first = remarks.get(remark, (0, row.line))
            remarks[remark] = count + 1, first
        if result.example is not None:
            kept.append((row.line, result.example))
    return EncodedChunk(record_batch(kept), len(rows) - len(refused), refused, open_turns, remarks)


def encode_in_chunks(
    rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase, processes: int
) -> Iterator[EncodedChunk]:
    """Chunk after chunk, in order; by so many processes beside this one where there are many chunks.

    No more than a few chunks are held. A process that cannot start or dies costs time only: what it had is done here.
    """
    chunks = _chunks(iter(rows))
    for chunk in islice(chunks, None if processes < 1 else ALONE):
        yield encode_chunk(chunk, tokenizer)
    with ExitStack() as stack:
        workers: deque[Worker] = deque()
        pool: ThreadPoolExecutor | None = None
        going: deque[tuple[list[Row], Future[Any]]] = deque()
        for chunk in chunks:
            if pool is None:
                workers.extend(stack.enter_context(Worker(tokenizer)) for _ in range(processes))
                pool = stack.enter_context(ThreadPoolExecutor(processes))
            going.append((chunk, pool.submit(_encode_elsewhere, workers, chunk)))
            if len(going) > 2 * processes:
                yield _result(*going.popleft(), tokenizer)
        while going:
            yield _result(*going.popleft(), tokenizer)


def _encode_elsewhere(workers: deque[Worker], rows: list[Row]) -> EncodedChunk:
    """By a process that is free: there are as many as threads that call this. Lost when none is left."""
    try:
        worker = workers.popleft()
    except IndexError:
        raise Lost from None
    found: EncodedChunk = worker(rows)
    workers.append(worker)  # not one that is lost
    return found


def _result(rows: list[Row], future: Future[EncodedChunk], tokenizer: PreTrainedTokenizerBase) -> EncodedChunk:
    try:
        return future.result()
    except Lost:
        return encode_chunk(rows, tokenizer)


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    held: list[Row] = []
    characters = 0
    for row in rows:
        held.append(row)
        characters += row.characters
        if len(held) == CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield held
            held, characters = [], 0
    if held:
        yield held
