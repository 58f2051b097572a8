"""uvicorn's HTTP/1.1, and a client that does not send its headers is not waited for."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def timed(seconds: float) -> type[asyncio.Protocol]:
    """The protocol, with so much time for a request's headers from a connection's first moment or a header's first
    byte on. Between requests uvicorn's own time holds."""

    class Timed(H11Protocol):
        """Closes connections on which a request does not begin."""

        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._wait()
            else:
                self._begun()

        def connection_lost(self, exc: Exception | None) -> None:
            self._begun()
            super().connection_lost(exc)

        def _wait(self) -> None:
            if self._late is None:
                self._late = self.loop.call_later(seconds, self._close)

        def _begun(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _close(self) -> None:
            if self.transport is not None and not self.transport.is_closing():
                self.transport.close()

    return Timed
