"""How long a job still takes: what the plan says of each part, at the pace of what has been trained so far."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lowregret.plan.price import JUDGING, MethodPrice, Price
from lowregret.runs.records import Metric
from lowregret.runs.standing import GroupStanding

_ENOUGH_SECONDS, _ENOUGH_STEPS = 3.0, 3
"""Of training after the first step of a trial, which has much to do once: from then on the pace is known."""


@dataclass(frozen=True)
class Part:
    """What has been trained of one trial."""

    method: str
    first: Metric | None
    """Its first step in this session."""
    last: Metric | None
    open: bool
    """Whether it goes on."""
    group: str = ""


class Pace:
    """Of one job with a price."""

    def __init__(self, price: Price) -> None:
        self.price = price
        self._by_key: dict[tuple[str, str], MethodPrice] = {}
        for each in price.methods:
            self._by_key.setdefault((each.group, each.method), each)
            self._by_key.setdefault(("", each.method), each)
        self._groups: dict[str, GroupStanding] = {}
        self._before: dict[str, frozenset[str]] = {}
        """Group → ids of the trials that had ended when it was first seen."""
        self._begun: set[str] = set()
        self._over: set[str] = set()

    def groups(self, found: Sequence[GroupStanding]) -> list[Part]:
        """What groups that others train have come to in this session, with those that were told before."""
        for standing in found:
            self._groups[standing.label] = standing
            self._before.setdefault(standing.label, frozenset(record.id for record in standing.ended))
        self._over = self._groups.keys() - {standing.label for standing in found}
        return [part for label, each in self._groups.items() for part in _parts_of(each, self._before[label])]

    def begin(self, group: str) -> None:
        """From now on this group is trained here, and those before it are over."""
        self._over = self._begun - {group}
        self._begun.add(group)

    def left(self, parts: Sequence[Part]) -> float | None:
        """Seconds until all is trained; None before the pace is known."""
        paces = self._paces(parts)
        if paces is None:
            return None
        total = 0.0
        for each in (method for method in self.price.methods if method.group not in self._over):
            own = [part for part in parts if self._of(part) is each]
            done = sum(each.until(part.last.step) for part in own if part.last is not None)
            running = sum(
                each.until(each.steps) - each.until(0 if part.last is None else part.last.step)
                for part in own
                if part.open
            )
            expected = each.full_trials * each.until(each.steps) - done
            total += max(expected, running) * paces[each.method]
        return total / self.price.at_once

    def steps(self, parts: Iterable[Part]) -> int:
        """How many the pace is known by."""
        return sum(part.last.step - part.first.step for part in parts if part.first and part.last)

    def _of(self, part: Part) -> MethodPrice | None:
        return self._by_key.get((part.group, part.method))

    def _paces(self, parts: Sequence[Part]) -> Mapping[str, float] | None:
        """Method → seconds that one of the plan's takes here; of a method without a step, that of all others."""
        planned: dict[str, float] = {}
        taken: dict[str, float] = {}
        judged = False
        for part in parts:
            price = self._of(part)
            if price is None or part.first is None or part.last is None or part.last.step == part.first.step:
                continue
            work = price.until(part.last.step) - price.until(part.first.step)
            planned[part.method] = planned.get(part.method, 0.0) + work
            taken[part.method] = taken.get(part.method, 0.0) + part.last.seconds - part.first.seconds
            judged = judged or any(part.first.step < at <= part.last.step for at in price.judged)
        evaluates = any(dict(each.parts).get(JUDGING) for each in self.price.methods)
        work, seconds = sum(planned.values()), sum(taken.values())
        if seconds < _ENOUGH_SECONDS or self.steps(parts) < _ENOUGH_STEPS or work <= 0 or (evaluates and not judged):
            return None
        known = {method: taken[method] / planned[method] for method in planned if planned[method] > 0}
        return {each.method: known.get(each.method, seconds / work) for each in self.price.methods}


def _parts_of(standing: GroupStanding, before: Collection[str]) -> Iterator[Part]:
    """The trials of a group but for those that had ended before."""
    start = Metric(step=0, tokens=0, seconds=0.0)
    for record in standing.records:
        if record.id in before:
            continue
        last = standing.last.get(record.id)
        if record.status != "running":
            last = Metric(step=record.steps, tokens=record.tokens, seconds=record.seconds)
        yield Part(record.method, start, last, record.status == "running", standing.label)
