"""What a page is told: everything when it opens, and after that what changes, each time with a number.

A page that was away names the last number that it has seen and gets what it missed; where that is no longer kept, or
another process has taken over the address, it is told to ask for everything again. So nothing is lost, and nothing
comes twice.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, final

from lowregret.strict_json import to_json
from lowregret.watch.group import Group
from lowregret.watch.run import Run, find
from lowregret.watch.trials import Followed, Trials

_FIND_SECONDS = 2.0
"""Between two looks for new runs."""
_KEPT_BYTES = 8_000_000
"""Of what has changed, for pages that were away."""
_MANY = 400
"""Trials that change at once, beyond which a page is told to ask for everything. More than train at a time: else a page
would ask again and again."""
_COMPACT = (",", ":")


@final
class Feed:
    """The runs in some folders. `look` is called again and again; the rest from any thread."""

    def __init__(self, roots: Iterable[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._roots, self._clock = tuple(roots), clock
        self._epoch = secrets.token_hex(8)
        self._runs: dict[Path, Run] = {}
        self._numbers, self._run_numbers = itertools.count(), itertools.count()
        self._news: deque[tuple[int, str]] = deque()
        self._size = 0
        self._last = 0
        self._found = -1e9
        self._lock = threading.Lock()
        self.complete = False
        """Whether all that there was has been read once."""

    def look(self) -> bool:
        """Read what has changed; whether there is more to read at once."""
        with self._lock:
            lost = self._find()
            more = False
            for run in self._runs.values():
                more = run.look() or more
            self.complete = self.complete or not more
            news = self._changes(lost)
            if news and len(news.get("trials", ())) > _MANY:  # asking for everything is less
                self._last += 1
                self._news.clear()
                self._size = 0
            elif news:
                self._keep(to_json(news, separators=_COMPACT))
            return more

    def _keep(self, text: str) -> None:
        self._last += 1
        self._news.append((self._last, text))
        self._size += len(text)
        while self._size > _KEPT_BYTES:
            self._size -= len(self._news.popleft()[1])

    @property
    def last(self) -> str:
        """What the last change is known by."""
        return f"{self._epoch}:{self._last}"

    def since(self, seen: str) -> list[tuple[str, str]] | None:
        """(number, JSON) of every change after one, the oldest first; None where these are no longer known."""
        epoch, _, number = seen.partition(":")
        with self._lock:
            if epoch != self._epoch or not number.isascii() or not number.isdecimal() or len(number) > 15:
                return None
            after = int(number)
            first = self._news[0][0] if self._news else self._last + 1
            if after > self._last or after + 1 < first:
                return None
            start = after + 1 - first
            return [(f"{self._epoch}:{n}", text) for n, text in itertools.islice(self._news, start, None)]

    def everything(self) -> str:
        """All that there is, as JSON, and by which number what comes after it begins."""
        with self._lock:
            groups = [self._whole(group) for run in self._runs.values() for group in run.groups]
            runs = to_json([run.head for run in self._runs.values()], separators=_COMPACT)
            complete = "true" if self.complete else "false"
            return f'{{"id":"{self.last}","complete":{complete},"runs":{runs},"groups":[{",".join(groups)}]}}'

    def run(self, number: int) -> Run | None:
        """By its number."""
        with self._lock:
            return next((run for run in self._runs.values() if run.number == number), None)

    def group(self, number: int) -> Group | None:
        """By its number."""
        with self._lock:
            every = (group for run in self._runs.values() for group in run.groups)
            return next((group for group in every if group.number == number), None)

    def trial(self, group: int, name: str) -> Followed | None:
        """Of a group by its number, by its id."""
        found = self.group(group)
        with self._lock:
            return None if found is None else found.trials.known.get(name)

    def _find(self) -> list[int]:
        """Take up new runs; the numbers of those that are gone."""
        if self._clock() - self._found < _FIND_SECONDS:
            return []
        self._found = self._clock()
        there = find(self._roots)
        lost = [run.number for folder, run in self._runs.items() if folder not in there]
        self._runs = {folder: run for folder, run in self._runs.items() if folder in there}
        for folder, name in there.items():
            if folder not in self._runs:
                number = next(self._run_numbers)
                self._runs[folder] = Run(number, folder, name, self._numbers.__next__, self._clock)
        return lost

    def _changes(self, lost: Sequence[int]) -> dict[str, Any]:
        """What nobody was told of yet."""
        news: dict[str, list[Any]] = {"lost": list(lost), "runs": [], "groups": [], "trials": [], "gone": [], "log": []}
        for run in self._runs.values():
            if run.changed:
                news["runs"].append(run.head)
                run.changed = False
            for group in run.groups:
                if group.head_changed:
                    news["groups"].append({"number": group.number, **group.head})
                    group.head_changed = False
                if group.new_lines:
                    news["log"].append([group.number, group.new_lines])
                    group.new_lines = []
                news["trials"] += _fresh(group.number, group.trials)
                news["gone"] += [[group.number, name] for name in group.trials.gone]
                group.trials.gone.clear()
        return {name: value for name, value in news.items() if value}

    def _whole(self, group: Group) -> str:
        trials = ",".join(_text(one) for one in group.trials.known.values() if one.record is not None)
        head = to_json({"number": group.number, **group.head, "log": group.lines}, separators=_COMPACT)
        return f'{head[:-1]},"trials":[{trials}]}}'


def _fresh(group: int, trials: Trials) -> list[dict[str, Any]]:
    found = []
    for one in trials.known.values():
        if one.changed and one.record is not None:
            curve: dict[str, Any] = {"train": one.train, "held": one.held}
            if one.again:
                curve = {"again": True, "train": one.curve.train.points, "held": one.curve.held.points}
            found.append({"group": group, **one.row(), **{name: value for name, value in curve.items() if value}})
            one.train, one.held, one.again, one.changed, one.text = [], [], False, False, ""
            if not one.running:  # now, and not when a page waits for thousands
                _text(one)
    return found


def _text(one: Followed) -> str:
    """A trial with its whole curve; made once, for as long as nothing changes."""
    if not one.text:
        whole = {**one.row(), "train": one.curve.train.points, "held": one.curve.held.points}
        one.text = to_json(whole, separators=_COMPACT)
    return one.text
