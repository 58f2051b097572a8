"""The life of a worker process of this machine: it outlives neither its parent nor an order to stop. A leaf."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import wait

_ASK_SECONDS = 0.5


def begin() -> None:
    """What a worker does first. Ctrl-C is for the parent, which decides; SIGTERM ends a worker, after a checkpoint
    where it trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed tells nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_ASK_SECONDS)
