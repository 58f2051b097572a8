"""A process that encodes rows beside the one that trains: `python -m lowregret.data.worker FD`, started by `Helper`.

It gets a tokenizer, then lists of rows, and answers each with its `EncodedChunk`. It ends when the other side closes.
"""

from __future__ import annotations

import gc
import pickle
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from lowregret.data.chunks import encode_chunk


def main(descriptor: int) -> None:
    """Encode until the other end closes."""
    connection: Connection[Any, Any] = Connection(descriptor)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        tokenizer = pickle.loads(connection.recv_bytes())
        gc.freeze()  # no collection looks at the libraries' objects again: a tenth less time
        while True:
            connection.send(encode_chunk(connection.recv(), tokenizer))


if __name__ == "__main__":
    main(int(sys.argv[1]))
