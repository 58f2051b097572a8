"""What the page may ask of a run: a request file for who trains it, or a pause. Nothing here touches a record."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from lowregret.errors import RecordsError, SpecError
from lowregret.runs.requests import Request, ask, go_on, is_paused, pause
from lowregret.spec import Spec, TrialSpec, build
from lowregret.watch.feed import Feed
from lowregret.watch.group import Group
from lowregret.watch.run import Run

MOST_BYTES = 4096
"""Of what is asked."""


class Asking(Spec):
    """The body of a POST to /ask."""

    what: Literal["stop", "trial", "seed", "pause", "resume"]
    run: int = Field(ge=0)
    group: int | None = Field(default=None, ge=0)
    trial: str | None = Field(default=None, max_length=200)
    """Of `stop`."""
    method: str | None = Field(default=None, max_length=500)
    learning_rate: float | None = Field(default=None, gt=0, lt=1e3)
    seed: int | None = Field(default=None, ge=0)
    """Of `trial`."""


def obey(feed: Feed, body: dict[str, Any]) -> str:
    """Do what a page asks, if that can be; what to tell its reader. SpecError or RecordsError says why it cannot."""
    asked = build(Asking, body)
    run = feed.run(asked.run)
    if run is None:
        raise SpecError("run: there is none of this number any more.")
    if asked.what in ("pause", "resume"):
        return _wait(run, asked.what == "pause")
    group = next((group for group in run.groups if group.number == asked.group), None)
    if group is None:
        raise SpecError("group: this run has none of this number.")
    ask(group.folder, _request(run, group, asked))
    return "Asked: it is answered after the step in training."


def _wait(run: Run, wanted: bool) -> str:
    if not wanted:
        if not is_paused(run.folder):
            raise SpecError(f"{run.name}: is not paused.")
        go_on(run.folder)
        return "It goes on."
    if not any(group.state == "training" for group in run.groups):
        raise SpecError(f"{run.name}: nobody trains it, so there is nothing to pause.")
    pause(run.folder)
    return "It waits after the step in training, with a checkpoint."


def _request(run: Run, group: Group, asked: Asking) -> Request:
    if group.state not in ("training", "paused"):
        raise RecordsError(
            f"{run.name}: nobody trains it, so nobody would answer. Start its command again; it goes on where it is."
        )
    if run.head.get("kind") == "train":
        raise SpecError(f"{run.name}: is one training, which can be paused. Ctrl-C where it runs stops it.")
    if asked.what == "stop":
        if asked.trial not in group.trials.known:
            raise SpecError("trial: there is none of this id.")
        return build(Request, {"kind": "stop", "trial": asked.trial})
    if asked.what == "seed":
        return Request(kind="seed")
    fields = {"method": asked.method, "learning_rate": asked.learning_rate, "seed": asked.seed or 0}
    return Request(kind="trial", spec=build(TrialSpec, fields))
