"""Many rows encoded, here and in processes beside this one: in order, and the same wherever it is done."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from lowregret.data.chunks import EncodedChunk, encode_chunk
from lowregret.data.sources import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK_ROWS, CHUNK_CHARACTERS = 1024, 1_000_000
"""A chunk ends after so many rows, or with the row that brings it to so many characters."""
ALONE = 8
"""Chunks before other processes help: about two seconds, as long as these take to start."""
_MOST = 8
"""Processes: reading the rows keeps no more of them busy."""


def helpers() -> int:
    """How many processes can help: as many as there are processors, none where there is one."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if processors == 1 else min(processors, _MOST)


def encode_in_order(rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase, processes: int) -> Iterator[EncodedChunk]:
    """Chunk after chunk of the rows; by so many processes where there are many chunks.

    No more than a few chunks are held. A process that cannot start or dies costs time only: what it had is done here.
    """
    chunks = _chunks(rows)
    for chunk in islice(chunks, ALONE):
        yield encode_chunk(chunk, tokenizer)
    with ExitStack() as stack:
        free: deque[Helper] = deque()
        pool: ThreadPoolExecutor | None = None
        going: deque[tuple[list[Row], Future[EncodedChunk]]] = deque()
        for chunk in chunks:
            if pool is None:
                free.extend(_started(tokenizer, processes, stack))
                pool = ThreadPoolExecutor(max(len(free), 1))
                stack.callback(pool.shutdown, cancel_futures=True)
            going.append((chunk, pool.submit(_encode_elsewhere, free, chunk)))
            if len(going) > 2 * processes:
                yield _result(*going.popleft(), tokenizer)
        while going:
            yield _result(*going.popleft(), tokenizer)


class Lost(Exception):
    """A process that is gone."""


class Helper:
    """A process that encodes, as long as the context lasts: lowregret.data.worker."""

    def __init__(self, tokenizer: bytes) -> None:
        """OSError when it cannot be started."""
        ours, other = multiprocessing.Pipe()
        with other:
            # A session of its own: Ctrl-C is for the program that trains, which then ends this process.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "lowregret.data.worker", str(other.fileno())],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                    "TOKENIZERS_PARALLELISM": "false",  # it has one processor to itself
                },
            )
        self._connection: Connection[Any, Any] = ours
        self._tokenizer: bytes | None = tokenizer

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def __call__(self, rows: list[Row]) -> EncodedChunk:
        """These rows, encoded; Lost when the process has died."""
        try:
            if self._tokenizer is not None:
                self._connection.send_bytes(self._tokenizer)
                self._tokenizer = None
            self._connection.send(rows)
            found: EncodedChunk = self._connection.recv()
        except (EOFError, OSError):
            raise Lost from None
        return found


def _started(tokenizer: PreTrainedTokenizerBase, processes: int, stack: ExitStack) -> Iterator[Helper]:
    try:
        content = pickle.dumps(tokenizer)
        for _ in range(processes):
            yield stack.enter_context(Helper(content))
    # A tokenizer of somebody's own that does not pickle, or a system that allows no more processes.
    except (pickle.PicklingError, AttributeError, TypeError, OSError):
        return


def _encode_elsewhere(free: deque[Helper], rows: list[Row]) -> EncodedChunk:
    """By a process that is free: as many threads call this as there are. Lost when none is left."""
    try:
        helper = free.popleft()
    except IndexError:
        raise Lost from None
    found = helper(rows)
    free.append(helper)  # one that is lost is not used again
    return found


def _result(rows: list[Row], future: Future[EncodedChunk], tokenizer: PreTrainedTokenizerBase) -> EncodedChunk:
    try:
        return future.result()
    except Lost:
        return encode_chunk(rows, tokenizer)


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
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
