"""The page that watches, answered from a thread, and how tests ask it."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lowregret.addresses import listen
from lowregret.watch.server import Server


@contextmanager
def serving(
    *folders: Path, token: str | None = None, control: bool = False, port: int = 0, host: str = "127.0.0.1"
) -> Iterator[str]:
    """The page of folders, answered from a thread; its address, without a slash at the end."""
    server = Server(folders, listen(host, port), token=token, control=control)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server.url.rstrip("/")
    finally:
        server.stop()
        thread.join(10)


def get(
    url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    request = urllib.request.Request(url, data=body, headers=dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read()


def state_of(url: str) -> dict[str, Any]:
    """All that the page is told, once everything has been read."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found: dict[str, Any] = json.loads(get(f"{url}/state")[2])
        if found["complete"]:
            return found
        time.sleep(0.05)
    raise TimeoutError(url)
