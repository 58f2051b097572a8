"""A server beside the tests, and how it is asked."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lowregret.serve.server import Server
from lowregret.spec.serve import ServeSpec

KEY = "sk-tests"


class Running:
    """A server that answers."""

    def __init__(self, server: Server, log: list[dict[str, Any]]) -> None:
        self.server, self.log = server, log
        self.address = server.socket.getsockname()[:2]
        begun = threading.Event()
        self._thread = threading.Thread(target=server.run, args=(begun.set,), daemon=True)
        self._thread.start()
        assert begun.wait(120)

    def stop(self) -> None:
        self.server.uvicorn.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()

    def ask(
        self, path: str, body: Any = None, *, key: str | None = KEY, raw: bytes | None = None, **headers: str
    ) -> tuple[int, Any]:
        """(status, JSON or text) of one request."""
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent.setdefault("Authorization", f"Bearer {key}")
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        connection.request("GET" if data is None else "POST", path, data, sent)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, json.loads(text) if "json" in answer.headers.get("content-type", "") else text

    def metric(self, name: str) -> float:
        """A number of /metrics."""
        lines = self.ask("/metrics")[1].splitlines()
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        return float(line.split()[-1])


@contextmanager
def running(
    model: str,
    *,
    adapters: dict[str, Path] | None = None,
    root: Path | None = None,
    tinker: Path | None = None,
    key: str | None = KEY,
    **spec: Any,
) -> Iterator[Running]:
    log: list[dict[str, Any]] = []
    own = ServeSpec(port=0, **spec)
    server = Server(model, own, adapters=adapters or {}, root=root, tinker=tinker, key=key, log=log.append)
    found = Running(server, log)
    try:
        yield found
    finally:
        found.stop()
