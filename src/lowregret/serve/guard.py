"""What every request passes first: its key, its size, its time; and the line of the log that it leaves."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lowregret.addresses import host_name
from lowregret.serve.problems import TINKER, Problem, failed, late

OPEN = ("/health",)
"""Paths that need no key."""

Log = Callable[[dict[str, Any]], None]


@dataclass
class Told:
    """What a request's handler tells of it, for the log and the counters."""

    number: str
    route: str = "none"
    began: float = field(default_factory=time.monotonic)
    first: float | None = None
    """Seconds to the first token."""
    about: dict[str, Any] = field(default_factory=dict)


@final
class Guard:
    """Around an application: Problems become answers, and all else that it raises a 500 that says nothing of it."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        key: str | None,
        hosts: Collection[str],
        max_body: Callable[[str], int],
        body_seconds: float,
        answer_seconds: float,
        log: Log,
        ended: Callable[[Told, int], None],
    ) -> None:
        """`hosts`: names by which the server may be asked; any when there is none. `max_body`: bytes by path. `ended`
        is told each one's end."""
        self._app, self._log, self._ended = app, log, ended
        self._key = None if key is None else _digest(key)
        self._hosts = frozenset(hosts)
        self._max_body, self._body_seconds, self._seconds = max_body, body_seconds, answer_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's life."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = scope["told"] = Told(uuid.uuid4().hex)
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", told.number.encode())]
            await send(message)

        problem: Problem | None = None
        try:
            async with asyncio.timeout(self._seconds + self._body_seconds):
                self._check(Headers(scope=scope), scope["path"])
                await self._app(scope, _Bounded(receive, self._max_body(scope["path"]), self._body_seconds), sent)
        except Problem as found:
            problem = found
        except TimeoutError:
            problem = late(self._seconds)
        except ClientDisconnect:
            told.about["left"] = True
        except asyncio.CancelledError:  # the server stops, or the client has gone
            status = status or 499
            raise
        except Exception as error:
            self._log({"event": "failed", "id": told.number, "error": f"{type(error).__name__}: {error}"})
            problem = failed()
        finally:
            if problem is not None and not status:
                await _whole(problem, scope, receive, sent)
            elif problem is not None and status == 200:
                told.about["cut"] = True
            seconds = time.monotonic() - told.began
            self._log(
                {
                    "event": "request",
                    "id": told.number,
                    "method": scope["method"],
                    "route": told.route,
                    "status": status,
                    "seconds": round(seconds, 4),
                    **told.about,
                }
            )
            self._ended(told, status)

    def _check(self, headers: Headers, path: str) -> None:
        """Problem for a request without the key, by a name that is not the server's, or too large."""
        if self._hosts and host_name(headers.get("host", "")) not in self._hosts:
            raise Problem(421, "Ask this server by the address at which it listens, or start it with an API key.")
        if self._key is not None and path not in OPEN:
            kind, _, given = headers.get("authorization", "").partition(" ")
            if path.startswith(TINKER) and "x-api-key" in headers:
                kind, given = "bearer", headers["x-api-key"]
            known = hmac.compare_digest(_digest(given.strip()), self._key)
            if not known or kind.lower() != "bearer":
                raise Problem(
                    401,
                    "The API key is missing or wrong: send it as Authorization: Bearer KEY.",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        said = headers.get("content-length", "0")
        if said.isdecimal() and len(said) < 20 and int(said) > self._max_body(path):
            raise _large(self._max_body(path))


async def _whole(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a problem, and close the connection: its body may not have been read."""
    response = problem.response(scope["path"])
    response.headers["connection"] = "close"
    await response(scope, receive, send)


class _Bounded:
    """Receives a body of so many bytes in so much time."""

    def __init__(self, receive: Receive, most: int, seconds: float) -> None:
        self._receive, self._left, self._most = receive, most, most
        self._until, self._whole = time.monotonic() + seconds, False

    async def __call__(self) -> Message:
        if self._whole:  # from now on it waits for the client to leave
            return await self._receive()
        try:
            async with asyncio.timeout(self._until - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            raise Problem(408, "The request's body did not come in time.", code="timeout") from None
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._left < 0:
                raise _large(self._most)
        return message


def _large(most: int) -> Problem:
    said = f"The request has more than {most:,} bytes, which is --max-body, or --max-training-body for Tinker's."
    return Problem(413, said, code="request_too_large")


def _digest(text: str) -> bytes:
    """Of equal length for every text, so that comparing tells nothing of it."""
    return hashlib.sha256(text.encode("utf-8", errors="replace")).digest()
