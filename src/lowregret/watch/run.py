"""A run, followed: a comparison, a training, or a study with its groups. And which runs there are in some folders."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from lowregret.errors import LowregretError, RecordsError, SpecError
from lowregret.foreign import boundary, real_path
from lowregret.questions.evidence import stored_question
from lowregret.questions.judge import Claims
from lowregret.questions.registry import Asked
from lowregret.runs.atomic import read_record
from lowregret.runs.files import CLAIMS, FORECAST, SPEC, STUDY, VERDICT, group_log
from lowregret.runs.forecast import Forecast, ForecastedRegret
from lowregret.runs.lock import stored_spec
from lowregret.runs.requests import is_paused
from lowregret.runs.study import group_folder
from lowregret.runs.verdict import Verdict
from lowregret.spec import CompareSpec, GroupSpec, TrainSpec, build
from lowregret.watch.curve import rounded
from lowregret.watch.group import HEAD_SECONDS, Group
from lowregret.watch.regret import History
from lowregret.watch.trials import clean

MOST_RUNS = 500
"""Of all folders together; others are not shown."""
_REGRET_SECONDS = 2.0

Numbers = Callable[[], int]
"""The next number of a group."""


def find(roots: Iterable[Path]) -> dict[Path, str]:
    """Folder → what it is called, of the runs that the roots are, or that lie in them. Names are those of the folders
    alone, so that a page tells nothing of where they are."""
    found: dict[Path, str] = {}
    for root in roots:
        for folder in _runs_in(root):
            if len(found) < MOST_RUNS and folder not in found:
                found[folder] = _name(folder, set(found.values()))
    return found


def _runs_in(root: Path) -> Iterator[Path]:
    if _is_run(root):
        yield root
        return
    with suppress(OSError):
        inside = sorted(entry.name for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False))
        yield from (root / name for name in inside if _is_run(root / name))


def _is_run(folder: Path) -> bool:
    return any(os.path.isfile(folder / name) for name in (STUDY, SPEC))


def _name(folder: Path, taken: set[str]) -> str:
    own = name = str(clean(real_path(folder).name)) or "run"
    number = 2
    while name in taken:
        name, number = f"{own} ({number})", number + 1
    return name


@final
class Run:
    """One run."""

    def __init__(
        self, number: int, folder: Path, name: str, numbers: Numbers, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.number, self.folder, self.name = number, folder, name
        self._numbers, self._clock = numbers, clock
        self.groups: list[Group] = []
        self.head: dict[str, Any] = {}
        self.changed = False
        """Of what the page shows of it beside its groups."""
        self._stamps: dict[str, Any] = {}
        self._told: dict[str, Any] = {}
        """What was read of its files."""
        self._history: History | None = None
        self._looked = self._judged = -1e9

    @property
    def is_study(self) -> bool:
        return self._told.get("kind") == "study"

    def look(self) -> bool:
        """Read what has changed; whether there is more to read at once.

        What a folder says that nobody has thought of is that run's problem, and stops the page of no other.
        """
        try:
            with boundary(RecordsError, self.name, "cannot be followed", "It is looked at again."):
                return self._follow()
        except RecordsError as error:
            self._told["problem"] = clean(str(error))
            self._show(judge=False)
            return False

    def _follow(self) -> bool:
        more = False
        if self._clock() - self._looked >= HEAD_SECONDS:
            self._looked = self._clock()
            self._read()
        for group in self.groups:
            more = group.look() or more
        self._show(judge=not more)
        return more

    def _show(self, *, judge: bool) -> None:
        head = self._now(judge=judge)
        if head != self.head:
            self.head, self.changed = head, True

    def _now(self, *, judge: bool) -> dict[str, Any]:
        if judge and self._history is not None and self._clock() - self._judged >= _REGRET_SECONDS:
            self._judged = self._clock()
            followed = [one for group in self.groups for one in group.trials.known.values()]
            self._told["regret"] = self._history.points(followed)
        return {
            "number": self.number,
            "name": self.name,
            "groups": [group.number for group in self.groups],
            **self._told,
            "paused": is_paused(self.folder),
        }

    def _read(self) -> None:
        try:
            if self._is_new(STUDY):
                self._read_study()
            elif self._is_new(SPEC) and not self.is_study:
                self._read_spec()
            self._told.pop("problem", None)
        except (LowregretError, OSError) as error:
            self._stamps.clear()
            self._told["problem"] = clean(str(error))
        self._read_results()

    def _is_new(self, name: str) -> bool:
        """Whether a file is there that has not been read as it is."""
        try:
            found = os.stat(self.folder / name)
        except OSError:
            return False
        stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
        if self._stamps.get(name) == stamp:
            return False
        self._stamps[name] = stamp
        return True

    def _read_spec(self) -> None:
        head = stored_spec(self.folder / SPEC)
        kind: type[CompareSpec | GroupSpec | TrainSpec] = TrainSpec
        if "methods" in head["spec"]:
            kind = GroupSpec if "condition" in head["spec"] else CompareSpec
        spec = build(kind, head["spec"], source=SPEC)
        resolved = head.get("resolved")
        resolved = resolved if isinstance(resolved, dict) else {}
        if self.groups and type(self.groups[0].spec) is kind:
            self.groups[0].spec = spec
        else:
            self.groups = [Group(self._numbers(), self.folder, spec, resolved, clock=self._clock)]
        self._history = History(self.folder, spec) if isinstance(spec, CompareSpec) else None
        name = {CompareSpec: "compare", GroupSpec: "group", TrainSpec: "train"}[kind]
        self._told |= {"kind": name, "command": clean(str(head.get("command", ""))), **_of(spec)}

    def _read_study(self) -> None:
        head = stored_question(self.folder / STUDY)
        question = build(Asked, {"question": head["question"]}, source=STUDY).question
        known = {group.folder: group for group in self.groups}
        groups = []
        for spec in question.groups():
            home = group_folder(self.folder, spec)
            group = known.get(home)
            if group is None:
                log = group_log(self.folder, spec.key)
                group = Group(self._numbers(), home, spec, {}, log=log, clock=self._clock)
            group.spec = spec
            groups.append(group)
        self.groups = groups
        self._told |= {
            "kind": "study",
            "title": question.TITLE,
            "command": clean(str(head.get("command", ""))),
            "seeds": question.seeds,
            "model": clean(", ".join(question.bases)),
            "data": clean(question.data.train),
        }

    def _read_results(self) -> None:
        for name, told in ((FORECAST, "forecast"), (VERDICT, "verdict"), (CLAIMS, "claims")):
            if not os.path.lexists(self.folder / name):  # a study that is extended takes its claims back
                self._stamps.pop(name, None)
                self._told.pop(told, None)
        with suppress(RecordsError, SpecError, OSError):
            if self._is_new(FORECAST):
                self._told["forecast"] = _forecast(read_record(Forecast, self.folder / FORECAST))
            if self._is_new(VERDICT):
                self._told["verdict"] = _verdict(read_record(Verdict, self.folder / VERDICT))
            if self._is_new(CLAIMS):
                self._told["claims"] = _claims(read_record(Claims, self.folder / CLAIMS))
        judged = os.path.exists(self.folder / (CLAIMS if self.is_study else VERDICT))
        for group in self.groups:
            group.done = judged


def _of(spec: CompareSpec | GroupSpec | TrainSpec) -> dict[str, Any]:
    return {
        "model": clean(spec.model),
        "data": clean(spec.data.train),
        "seeds": getattr(spec, "seeds", 1),
    }


def _forecast(found: Forecast) -> dict[str, Any]:
    return {
        "of": [_forecasted(one) for one in found.forecasts],
        "level": found.level,
        "step": found.step,
        "steps": found.steps,
    }


def _forecasted(one: ForecastedRegret) -> dict[str, Any]:
    """Of one LoRA: its name alone where nothing is forecast; without pilots no nats."""
    if one.says_nothing:
        return {"method": one.method}
    low, high = one.share_interval
    told: dict[str, Any] = {"method": one.method, "share": [rounded(one.share), rounded(low), rounded(high)]}
    if one.regret_nats is not None and one.nats_interval is not None:
        low, high = one.nats_interval
        told |= {"regret": rounded(one.regret_nats), "low": rounded(low), "high": rounded(high)}
    return told


def _verdict(found: Verdict) -> dict[str, Any]:
    return {"verdict": found.verdict, "reasons": [clean(reason) for reason in found.reasons]}


def _claims(found: Claims) -> list[dict[str, Any]]:
    return [
        {"number": one.statement.number, "sentence": clean(one.statement.sentence), "ruling": one.ruling}
        for one in found.claims
    ]
