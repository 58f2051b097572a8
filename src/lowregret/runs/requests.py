"""What is asked of a run while it runs: a file a request, and a line of orders.jsonl once it is answered.

Whoever asks only writes a file into `requests/`; whoever trains reads it between two steps, answers in orders.jsonl,
and obeys what stands there. So the records say all that was done, and a run that goes on does it again at the same
steps. Anybody who may write in the folder may ask, so a request names trials and numbers, never a file.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from lowregret import limits
from lowregret.errors import RecordsError
from lowregret.foreign import read_bytes
from lowregret.runs.atomic import make_folder, remove_file, sync_file, write_bytes, write_json
from lowregret.runs.boundary import NAME, open_regular
from lowregret.runs.files import GROUPS, ORDERS, PAUSED, REQUESTS
from lowregret.runs.metrics import append_lines
from lowregret.runs.record import Record
from lowregret.spec import TrialSpec

MOST_BYTES = 4096
"""Of a request."""
MOST_ORDERS = 10_000
"""Of a run: what is asked more often is a mistake."""
_MOST_WAITING = 100
"""Requests that are read at a time."""
_FILE = re.compile(r"\d{19}-[0-9a-f]{16}\.json")

Kind = Literal["stop", "trial", "seed"]


class Request(Record):
    """What is asked for."""

    kind: Kind
    """`stop` a trial in training; train one more `trial`; one more `seed` of all methods."""
    trial: str | None = Field(default=None, pattern=NAME)
    """Of `stop`: its id."""
    spec: TrialSpec | None = None
    """Of `trial`: what is to be trained."""

    @model_validator(mode="after")
    def _whole(self) -> Request:
        if (self.trial is not None) != (self.kind == "stop") or (self.spec is not None) != (self.kind == "trial"):
            raise ValueError("a stop names a `trial`, a trial has a `spec`, and a seed neither")
        return self


class Order(Record):
    """A line of orders.jsonl: a request with its answer."""

    id: str = Field(pattern=r"^\d{19}-[0-9a-f]{16}$")
    when: str
    """It was answered, UTC."""
    request: Request | None
    """None for one that could not be read."""
    taken: bool
    """Whether it is obeyed."""
    said: str
    """The answer, for a person."""
    ended: int = Field(default=0, ge=0, le=limits.STEPS)
    """Trials of the run that had ended when it was taken."""
    steps: Mapping[str, int] = Field(default_factory=dict)
    """Trial in training → the steps that it had taken: where a run that goes on obeys it."""
    seeds: int | None = Field(default=None, ge=1, le=limits.REPEATS, exclude_if=lambda value: value is None)
    """Of one more seed: how many every method then has. A command that asks for as many or more has it already."""


def ask(folder: Path, request: Request) -> str:
    """Leave a request in a run's folder; its id. RecordsError when that is refused, or too many wait."""
    home = folder / REQUESTS
    if home.is_symlink():
        raise RecordsError(f"{home}: is a link, which is not written through. Delete it.")
    if len(_names(home)) >= _MOST_WAITING:
        raise RecordsError(f"{home}: {_MOST_WAITING} requests wait, and nobody answers. Is the run at work?")
    make_folder(home)
    name = f"{time.time_ns():019}-{secrets.token_hex(8)}"
    write_json(home / f"{name}.json", request)
    return name


def waiting(folder: Path) -> dict[str, Request | str]:
    """Id → the request, or what is wrong with it, of those that are not answered; the oldest first."""
    home = folder / REQUESTS
    found: dict[str, Request | str] = {}
    for name in _names(home)[:_MOST_WAITING]:
        try:
            with os.fdopen(open_regular(home / name, os.O_RDONLY), "rb") as file:
                text = file.read(MOST_BYTES + 1)
            found[name.removesuffix(".json")] = _parsed(text)
        except FileNotFoundError:
            continue
        except (OSError, RecordsError):
            found[name.removesuffix(".json")] = "it is no file of its own"
    return found


def _parsed(text: bytes) -> Request | str:
    if len(text) > MOST_BYTES:
        return f"it has more than {MOST_BYTES:,} bytes"
    try:
        return Request.model_validate_json(text)
    except ValidationError as error:
        return str(error.errors(include_url=False, include_input=False)[0]["msg"])[:200]


def _names(home: Path) -> list[str]:
    """Of the files that are requests; none where `home` is a link, which may lead anywhere."""
    if home.is_symlink():
        return []
    try:
        return sorted(name for name in os.listdir(home) if _FILE.fullmatch(name))
    except OSError:
        return []


def stamp(folder: Path) -> int:
    """Changes when a request comes: one look at the folder, as cheap as can be between two steps."""
    try:
        return os.stat(folder / REQUESTS).st_mtime_ns
    except OSError:
        return 0


def answer(folder: Path, order: Order) -> None:
    """Write the answer down, then take the request away: a kill in between answers nothing twice."""
    append_lines(folder / ORDERS, [order.model_dump(mode="json")])
    sync_file(folder / ORDERS)
    forget(folder, order.id)


def forget(folder: Path, name: str) -> None:
    """Take a request away."""
    remove_file(folder / REQUESTS / f"{name}.json")


def read_orders(folder: Path) -> list[Order]:
    """The orders of a run's folder, for who has locked it: half a line at the end, which a kill has left, goes.

    RecordsError names a damaged line: what a run has obeyed cannot be guessed.
    """
    path = folder / ORDERS
    if not path.exists():
        return []
    text = read_bytes(path, RecordsError, _REMEDY)
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        write_bytes(path, whole)
    lines = whole.split(b"\n")[:-1]
    if len(lines) > MOST_ORDERS:
        raise RecordsError(f"{path}: has {len(lines):,} lines, and at most {MOST_ORDERS:,} are read. {_REMEDY}")
    found = []
    for number, line in enumerate(lines, start=1):
        order = parse_order(line)
        if order is None:
            raise RecordsError(f"{path}:{number}: damaged. {_REMEDY}")
        found.append(order)
    return found


_REMEDY = "Bring the file back as it was, or use another --out."


def parse_order(line: bytes) -> Order | None:
    """A line of orders.jsonl; None for one that is damaged."""
    with suppress(ValidationError):
        return Order.model_validate_json(line)
    return None


def now() -> str:
    """For `Order.when`."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def pause(folder: Path) -> None:
    """Ask the run in a folder, and the groups of a study there, to wait."""
    write_json(folder / PAUSED, {"when": now()})


def go_on(folder: Path) -> None:
    """End a pause."""
    remove_file(folder / PAUSED)


def is_paused(folder: Path) -> bool:
    """Whether a run, or the study that it is a group of, is asked to wait."""
    places = [folder, folder.parent.parent] if folder.parent.name == GROUPS else [folder]
    return any(os.path.lexists(place / PAUSED) for place in places)
