"""Bytes of a file → text and JSON, with errors that name the place: what the readers of text formats share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lowregret.data.readers.base import BrokenRow
from lowregret.errors import DataError


def read_bytes(source: str) -> bytes:
    """All of a file but its byte order mark. Raises DataError when it cannot be read or is UTF-16."""
    try:
        content = Path(source).read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error}).", source=source) from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError("is UTF-16. Save it as UTF-8.", source=source)
    return content.removeprefix(b"\xef\xbb\xbf")


def parse_json(content: bytes) -> Any:
    """JSON, or a ValueError that says what is wrong in one line."""
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte 0x{content[error.start]:02x} at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} " if error.lineno > 1 else ""
        raise ValueError(f"broken JSON: {error.msg} at {place}column {error.colno}") from None
    except RecursionError:
        raise ValueError("broken JSON: nested too deeply") from None


def require_object(value: Any) -> dict[str, Any] | BrokenRow:
    """A JSON value as a row."""
    if isinstance(value, dict):
        return value
    return BrokenRow(f"a row must be a JSON object with named fields, not {type(value).__name__}")
