"""A process that encodes rows beside this one: `python -m lowregret.data.worker FD`, started by `Worker`.

It gets a tokenizer, then lists of rows, and answers each with its `EncodedChunk`. It ends when the other side closes.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lowregret.data.sources import Row


class Lost(Exception):
    """The process cannot be started, or is gone."""


class Worker:
    """The process, as long as the context lasts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
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
        self._tokenizer: PreTrainedTokenizerBase | None = tokenizer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def __call__(self, rows: list[Row]) -> Any:
        """The `EncodedChunk` of these rows; Lost when the process died."""
        try:
            if self._tokenizer is not None:
                self._connection.send(self._tokenizer)
                self._tokenizer = None
            self._connection.send(rows)
            return self._connection.recv()
        except (EOFError, OSError):
            raise Lost from None


def main(descriptor: int) -> None:
    """Encode until the other end closes."""
    from lowregret.data.chunks import encode_chunk

    connection: Connection[Any, Any] = Connection(descriptor)
    with suppress(EOFError):
        tokenizer = connection.recv()
        while True:
            connection.send(encode_chunk(connection.recv(), tokenizer))


if __name__ == "__main__":
    main(int(sys.argv[1]))
