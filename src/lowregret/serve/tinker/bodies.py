"""How bodies of Tinker's requests are taken: their types, their names in the log, and where they stand in an order."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from lowregret.serve.guard import Told
from lowregret.serve.problems import Problem
from lowregret.serve.requests import Asked, parse

A = TypeVar("A", bound=Asked)
Endpoint = Callable[[Request], Awaitable[Response]]


def named(path: str, endpoint: Endpoint) -> Endpoint:
    """The endpoint, whose requests the log and the counters know by this name."""

    async def run(request: Request) -> Response:
        told: Told = request.scope["told"]
        told.route = f"tinker/{path}"
        return await endpoint(request)

    return run


def content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def body_of(request: Request, *others: str) -> bytes:
    """A body that says that it is JSON, or one of the other types."""
    if content_type(request) not in ("application/json", *others):
        raise Problem(415, "Send JSON, as Content-Type: application/json.")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Problem(415, "Send the body as it is, not compressed.")
    try:
        return await request.body()
    except ClientDisconnect:
        raise Problem(400, "The body ended too early.") from None


async def asked_of(kind: type[A], request: Request) -> A:
    return parse(kind, await body_of(request))


def place_in(body: bytes) -> tuple[str, int] | None:
    """The model and the number that a body of JSON names, whatever else is wrong with it."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        return None
    place = (given.get("model_id"), given.get("seq_id")) if isinstance(given, dict) else (None, None)
    model, seq = place
    if not isinstance(model, str) or not model.isascii():  # of another text nothing is the name
        return None
    return (model, seq) if type(seq) is int and 0 < seq < 2**62 else None
