"""The page and what it asks for, over HTTP: its files, the state, the changes, one trial, and requests.

Only this machine reaches it unless told otherwise. A request must name the server as it is known (against pages of
others that make a name lead here), no other page's script may read an answer, and the page runs no script but its own
files. What is asked for needs the token, in a header; so does everything else where others reach the address.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from importlib.resources import files
from types import MappingProxyType
from typing import final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from lowregret.addresses import host_name
from lowregret.errors import LowregretError, SpecError
from lowregret.foreign import parse_json
from lowregret.foreign_text import shown
from lowregret.strict_json import to_json
from lowregret.watch.control import MOST_BYTES, obey
from lowregret.watch.details import details
from lowregret.watch.feed import Feed
from lowregret.watch.trials import clean

LOOK_SECONDS = 0.25
"""Between two looks at the records, while a page is open."""
_IDLE_SECONDS = 2.0
"""While none is."""
ALIVE_SECONDS = 10.0
"""Without news, so that a page can tell a silent server from one that has gone."""
_MOST_READERS = 100
_DIGITS = 9
"""Of a group's number, at most."""
_KINDS = MappingProxyType(
    {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "txt": "text/plain"}
)
_HEADERS = MappingProxyType(
    {
        "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-store",
    }
)


@final
class Page:
    """The application."""

    def __init__(self, feed: Feed, *, hosts: Collection[str], token: str | None, control: bool) -> None:
        """
        Args:
            hosts: names by which the server may be asked; any when there is none, and then all needs the token.
            token: what allows; None where nothing needs one.
            control: whether runs may be asked for anything.
        """
        self._feed, self._hosts, self._control = feed, frozenset(hosts), control
        self._token = None if token is None else _digest(token)
        self._changed = asyncio.Event()
        self._readers = 0
        self.over: Callable[[], bool] = lambda: False
        """Whether the server stops: then streams end, which would go on for ever."""
        self._awake = asyncio.Event()
        self._files = dict(_page_files())

    def application(self) -> Starlette:
        """What answers requests."""
        routes = [
            Route("/", self._index, methods=["GET"]),
            Route("/page/{name:path}", self._file, methods=["GET"]),
            Route("/state", self._state, methods=["GET"]),
            Route("/events", self._events, methods=["GET"]),
            Route("/trial/{group}/{name}", self._trial, methods=["GET"]),
            Route("/ask", self._ask, methods=["POST"]),
        ]
        return Starlette(routes=routes, lifespan=self._life)

    @asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[None]:
        following = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            following.cancel()
            self._wake()

    async def _follow(self) -> None:
        while True:
            self._awake.clear()
            seen = self._feed.last
            more = await asyncio.to_thread(self._feed.look)
            if self._feed.last != seen or self.over():
                self._wake()
            if more:
                continue
            try:
                async with asyncio.timeout(LOOK_SECONDS if self._readers else _IDLE_SECONDS):
                    await self._awake.wait()
            except TimeoutError:
                continue

    def _wake(self) -> None:
        """Whoever waits for news looks again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _refusal(self, request: Request, *, asks: bool = False) -> Response | None:
        """Why a request is not answered; None when it is."""
        if self._hosts and host_name(request.headers.get("host", "")) not in self._hosts:
            return _said("Ask this server by the address at which it listens.", 421)
        if not asks and self._hosts:
            return None
        if asks and not self._control:
            return _said("This page only watches: start `lowregret watch` with --allow-control.", 403)
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        known = self._token is not None and hmac.compare_digest(_digest(given.strip()), self._token)
        return None if known and kind.lower() == "bearer" else _said("The token is missing or wrong.", 401)

    async def _index(self, request: Request) -> Response:
        return self._served(request, "index.html")

    async def _file(self, request: Request) -> Response:
        return self._served(request, request.path_params["name"])

    def _served(self, request: Request, name: str) -> Response:
        """A file of the page, which tells nothing; of a fixed list, so that no path leads anywhere."""
        if self._hosts and (refused := self._refusal(request)) is not None:
            return refused
        if name not in self._files:
            return _said("There is no such path here.", 404)
        return Response(self._files[name], headers=_HEADERS, media_type=_KINDS[name.rpartition(".")[2]])

    async def _state(self, request: Request) -> Response:
        if (refused := self._refusal(request)) is not None:
            return refused
        self._awake.set()
        text = await asyncio.to_thread(self._feed.everything)
        head = to_json({"control": self._control})
        return _json(f"{head[:-1]},{text[1:]}")

    async def _events(self, request: Request) -> Response:
        if (refused := self._refusal(request)) is not None:
            return refused
        if self._readers >= _MOST_READERS:
            return _said("Too many pages are open.", 503)
        return StreamingResponse(
            self._stream(request.headers.get("last-event-id", "")), headers=_HEADERS, media_type="text/event-stream"
        )

    async def _stream(self, seen: str) -> AsyncIterator[str]:
        """Server-sent events: `news` with a number, or `again` for a page that must ask for everything."""
        self._readers += 1
        self._awake.set()
        try:
            while not self.over():
                changed = self._changed
                news = self._feed.since(seen)
                if news is None:
                    yield "event: again\ndata: {}\n\n"
                    return
                for seen, text in news:
                    yield f"id: {seen}\nevent: news\ndata: {text}\n\n"
                if not news:
                    try:
                        async with asyncio.timeout(ALIVE_SECONDS):
                            await changed.wait()
                    except TimeoutError:
                        yield ": alive\n\n"
        finally:
            self._readers -= 1

    async def _trial(self, request: Request) -> Response:
        if (refused := self._refusal(request)) is not None:
            return refused
        group = request.path_params["group"]
        known = group.isascii() and group.isdecimal() and len(group) <= _DIGITS
        one = self._feed.trial(int(group), request.path_params["name"]) if known else None
        if one is None or one.record is None:
            return _said("There is no such trial any more.", 404)
        return _json(to_json(await asyncio.to_thread(details, one)))

    async def _ask(self, request: Request) -> Response:
        if (refused := self._refusal(request, asks=True)) is not None:
            return refused
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return _said("Ask in application/json.", 415)
        try:
            body = await _bounded(request)
            asked = parse_json(body, "the request", SpecError, "Send an object.")
            if not isinstance(asked, dict):
                raise SpecError("the request: is no object.")
            said = await asyncio.to_thread(obey, self._feed, asked)
        except LowregretError as error:
            return _said(str(error), 400)
        self._awake.set()
        return _json(to_json({"said": said}))


async def _bounded(request: Request) -> bytes:
    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                raise SpecError(f"the request: has more than {MOST_BYTES:,} bytes.")
    except ClientDisconnect:
        raise SpecError("the request: was not sent to its end.") from None
    return body


def _page_files() -> list[tuple[str, bytes]]:
    """Name → content of what the page is made of."""
    root = files("lowregret.watch").joinpath("page")
    own = [(entry.name, entry.read_bytes()) for entry in root.iterdir() if entry.is_file()]
    vendored = root.joinpath("vendor")
    return [*own, *((f"vendor/{entry.name}", entry.read_bytes()) for entry in vendored.iterdir() if entry.is_file())]


def _json(text: str) -> Response:
    return Response(text, headers=_HEADERS, media_type="application/json")


def _said(text: str, status: int) -> Response:
    return Response(to_json({"error": clean(shown(text))}), status, headers=_HEADERS, media_type="application/json")


def _digest(text: str) -> bytes:
    """Of equal length for every text, so that comparing tells nothing of it."""
    return hashlib.sha256(text.encode("utf-8", errors="replace")).digest()
