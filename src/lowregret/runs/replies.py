"""The shape of `replies.json`: what the base and the winners say to the same held-out prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from lowregret.runs.atomic import read_record
from lowregret.runs.files import BEST, BEST_FULL, BEST_LORA, REPLIES, TRIAL
from lowregret.runs.record import Record
from lowregret.runs.records import TrialRecord
from lowregret.runs.study import shipped_folder
from lowregret.spec import FullFT
from lowregret.strict_json import to_json

Name = Literal["base", "lora", "full"]
BASE_SPEAKER: Name = "base"
LORA: Name = "lora"
FULL: Name = "full"
"""How speakers are called, in the record and by `lowregret chat --with`."""


class Speaker(Record):
    """Whose replies they are."""

    name: Name
    method: str | None = None
    """As the spec spells it; None for the base."""
    trial: str | None = None
    weights: str | None = None
    """SHA-256 of the list of what the trial has shipped, and of its id."""


class Reply(Record):
    """One greedy reply."""

    text: str
    tokens: int = Field(ge=0)
    """Drawn ones, that which ended it included."""
    cut: bool
    """Whether it ran to the most tokens that were allowed."""
    nll: float | None = None
    """Of this example, not of the reply: nats per supervised token; None with rewards."""
    reward: float | None = None
    """Of the reply; None without rewards."""


class Answered(Record):
    """A prompt, and what each speaker says to it."""

    place: int = Field(ge=0)
    """Among the held-out examples, counted from 0."""
    prompt: str
    """As the base reads it."""
    reference: str | None
    """What the data, or the task, have for an answer."""
    replies: dict[str, Reply]
    """By speaker."""


class Replies(Record):
    """`replies.json`."""

    asked: int = Field(ge=1)
    """How many prompts were wanted; the held-out examples may be fewer."""
    held_out: str
    """The beginning of the SHA-256 of the held-out examples' tokens, as in spec.json."""
    choice: str
    """How the prompts were chosen, in words."""
    max_tokens: int = Field(ge=1)
    speakers: tuple[Speaker, ...]
    rows: tuple[Answered, ...]

    def is_for(self, asked: int, held_out: str, speakers: Sequence[Speaker]) -> bool:
        """Whether these are the replies of these speakers to so many of these held-out examples."""
        return (self.asked, self.held_out, self.speakers) == (asked, held_out, tuple(speakers))


def speaker(record: TrialRecord) -> Speaker:
    """The result of a trial, as a speaker."""
    listed = to_json([record.id, dict(record.shipped)], sort_keys=True)
    return Speaker(
        name=FULL if isinstance(record.spec.method, FullFT) else LORA,
        method=record.method,
        trial=record.id,
        weights=hashlib.sha256(listed.encode()).hexdigest(),
    )


def winners(folder: Path) -> Mapping[Path, TrialRecord]:
    """The weights of a finished run, a folder each, with the trial that made them: those of `best`, or a training's."""
    if (folder / TRIAL).is_file():
        record = read_record(TrialRecord, folder / TRIAL)
        return {folder / shipped_folder(record): record} if record.status == "finished" else {}
    places = [folder / BEST / kind for kind in (BEST_LORA, BEST_FULL)]
    return {place: read_record(TrialRecord, place / TRIAL) for place in places if (place / TRIAL).is_file()}


def read_replies(folder: Path) -> Replies | None:
    """The replies of a run; None where there are none, or those of other winners than it has now.

    RecordsError when the record is damaged.
    """
    if not (folder / REPLIES).is_file():
        return None
    found = read_record(Replies, folder / REPLIES)
    now = [speaker(record) for record in winners(folder).values()]
    return found if [one for one in found.speakers if one.name != BASE_SPEAKER] == now else None
