"""What is wrong with a request, in OpenAI's form: {"error": {"message", "type", "param", "code"}}; in Tinker's,
{"detail"}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.responses import Response

from lowregret.foreign_text import shown
from lowregret.strict_json import to_json

_LONGEST = 500
TINKER = "/api/v1/"
"""What the paths of Tinker's protocol begin with."""


class Problem(Exception):
    """A request that is not answered."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        said = shown(message)
        said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"
        self.body: dict[str, Any] = {"error": {"message": said, "type": kind, "param": param, "code": code}}

    def response(self, path: str = "") -> Response:
        """As HTTP has it, in the form of the protocol that answers at this path."""
        body = {"detail": self.body["error"]["message"]} if path.startswith(TINKER) else self.body
        return json_response(body, self.status, self.headers)


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as a response."""
    return Response(to_json(value), status, dict(headers or {}), media_type="application/json")


def invalid(error: ValidationError, fields: Mapping[str, Any]) -> Problem:
    """The first thing that a model of a request says is wrong."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        return Problem(
            400, f"{place[:100]}: is no parameter here. Valid: {', '.join(sorted(fields))}.", param=place[:100]
        )
    return Problem(400, f"{f'{place[:100]}: ' if place else ''}{first['msg']}.", param=place[:100] or None)


def busy() -> Problem:
    """Nobody more can wait."""
    return Problem(
        429,
        "Too many requests are waiting. Ask again in a moment, or start the server with a larger --max-waiting.",
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"Retry-After": "1"},
    )


def late(seconds: float) -> Problem:
    """The time for an answer is over."""
    return Problem(504, f"The answer was not ready after {seconds:g} seconds.", kind="timeout_error", code="timeout")


def failed() -> Problem:
    """Something of ours, of which the client learns nothing."""
    return Problem(500, "The server failed on this request; its log says how.", kind="server_error")
