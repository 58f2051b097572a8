"""The page as a server: of some folders, until it is stopped; or beside a run, for as long as that lasts."""

from __future__ import annotations

import multiprocessing
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import final

import uvicorn

from lowregret.addresses import BACKLOG, address_of, is_loopback, listen
from lowregret.errors import SpecError
from lowregret.spec.watch import WatchSpec
from lowregret.watch.app import Page
from lowregret.watch.feed import Feed

_STOP_SECONDS = 1


@final
class Server:
    """The page of some folders, served over HTTP."""

    def __init__(
        self, folders: Sequence[Path], listening: socket.socket, *, token: str | None = None, control: bool = False
    ) -> None:
        """`listening` answers nobody yet: `run` does, and closes it. With `control` runs may be asked for something.
        SpecError where a token is needed: for control, and at an address that others reach."""
        host = str(listening.getsockname()[0])
        reached = not is_loopback(host)
        if token is None and (reached or control):
            raise SpecError(f"--host {host}: others reach this address, and there is no token.")
        local = () if reached else ("localhost", host, "127.0.0.1", "::1")
        self.url = f"{address_of(listening)}/"
        self._socket = listening
        page = Page(Feed(folders), hosts=local, token=token, control=control)
        config = uvicorn.Config(
            page.application(),
            ws="none",
            loop="asyncio",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
        self._server = uvicorn.Server(config)
        page.over = lambda: self._server.should_exit

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Answer requests until SIGINT or SIGTERM; `ready` is called before the first one is."""
        ready()
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def stop(self) -> None:
        """End `run`, from any thread."""
        self._server.should_exit = True


@contextmanager
def watched(folders: Sequence[Path], say: Callable[[str], None]) -> Iterator[None]:
    """The page of folders that need not be there yet, in a process of its own for as long as the context lasts: it
    only watches, and takes no time from what trains but its own."""
    spec = WatchSpec()
    try:
        listening = listen(spec.host, spec.port)
    except SpecError:  # somebody watches already
        listening = listen(spec.host, 0)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_beside, args=(tuple(folders), listening), daemon=True)
    process.start()
    say(f"watch: {address_of(listening)}/")
    listening.close()
    try:
        yield
    finally:
        process.terminate()
        process.join(_STOP_SECONDS)


def _beside(folders: Sequence[Path], listening: socket.socket) -> None:
    """Serve until the process that started this one has ended: Ctrl-C is for that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=Server(folders, listening).run, daemon=True).start()
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
