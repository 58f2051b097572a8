"""A compare, a training, or a group of a study, followed: its trials, who trains it, what it says, what it is asked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, final

import psutil

from lowregret.errors import RecordsError
from lowregret.report.charts.words import label
from lowregret.runs.files import LOCK, ORDERS
from lowregret.runs.holder import SILENT_SECONDS, Holder, holder_of
from lowregret.runs.requests import Order, is_paused, parse_order, waiting
from lowregret.runs.study import base_facts, read_costs
from lowregret.runs.tail import Tail
from lowregret.spec import CompareSpec, FullFT, GroupSpec, Method, TrainSpec
from lowregret.study.lattice import group_estimate
from lowregret.study.search import total_estimate
from lowregret.watch.trials import SINGLE, Trials, clean

State = Literal["waiting", "training", "paused", "stopped", "done"]
Asked = CompareSpec | GroupSpec | TrainSpec
_SHOWN_ORDERS = 50
_LOG_LINES = 400
"""Of a log, the last that are kept for a page that opens later."""
HEAD_SECONDS = 1.0
_HERE = Holder.here().machine


@final
class Group:
    """One folder of trials."""

    def __init__(
        self,
        number: int,
        folder: Path,
        spec: Asked,
        resolved: Mapping[str, Any],
        *,
        log: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`number` is what the page calls it by; `resolved` what its run decided, and `log` what its workers say."""
        self.number, self.folder, self.spec = number, folder, spec
        self._resolved, self._clock = resolved, clock
        self.trials = Trials(folder, single=isinstance(spec, TrainSpec), clock=clock)
        self._orders, self._log = Tail(folder / ORDERS), None if log is None else Tail(log)
        self.orders: list[Order] = []
        self.lines: list[str] = []
        """The last of its log."""
        self.new_lines: list[str] = []
        self.done = False
        """Whoever knows that it is complete says so."""
        self._head: dict[str, Any] = {}
        self.head_changed = False
        self._looked = -1e9
        self._facts: dict[str, Any] = {}

    def look(self) -> bool:
        """Read what has changed; whether there is more to read at once."""
        more = self.trials.look()
        if self._clock() - self._looked >= HEAD_SECONDS:
            self._looked = self._clock()
            self._read_orders()
            self._read_log()
            head = self._now()
            if head != self._head:
                self._head, self.head_changed = head, True
        return more

    @property
    def head(self) -> dict[str, Any]:
        """What the page shows of it beside its trials."""
        return self._head

    @property
    def state(self) -> State:
        """As of the last look."""
        found: State = self._head.get("state", "waiting")
        return found

    @property
    def steps(self) -> int | None:
        """Of a trial; None where that is not known yet."""
        steps = self._resolved.get("steps", self.spec.steps)
        return steps if isinstance(steps, int) else None

    def _now(self) -> dict[str, Any]:
        holder = _living(self.folder)
        running = [one for one in self.trials.known.values() if one.running]
        with suppress(RecordsError, OSError):
            self._facts = base_facts(self.folder)
        objective = self.spec.objective.kind
        found: dict[str, Any] = {
            "key": getattr(self.spec, "key", ""),
            "state": self._state(holder, bool(running)),
            "methods": [
                {"name": name, "label": label(method), "kind": "full" if isinstance(method, FullFT) else "lora"}
                for name, method in self._methods().items()
            ],
            "steps": self.steps,
            "expected": self._expected(),
            "hidden": self.trials.hidden,
            "unit": "reward" if objective == "rl" else "nats",
            "start": self._facts.get("test_nll"),
            "worker": None if holder is None else {"host": clean(holder.host), "pid": holder.pid},
            "device": clean(str(self._resolved.get("device", self.spec.device))),
            "devices": self.spec.devices,
            "price": self._price(),
            "orders": [_plain(order) for order in self.orders[-_SHOWN_ORDERS:]],
            "waiting": len(waiting(self.folder)),
        }
        return found

    def _methods(self) -> dict[str, Method]:
        """By name: those that it trains, and any other that somebody has asked for."""
        found = {method.name: method for method in self.spec.asked}
        for one in self.trials.known.values():
            if one.record is not None and one.record.method not in found:
                found[one.record.method] = one.record.spec.method
        return found

    def _price(self) -> float | None:
        with suppress(RecordsError, OSError):
            return read_costs(self.folder).price_per_hour
        return None

    def _state(self, holder: Holder | None, running: bool) -> State:
        if holder is not None:
            return "paused" if is_paused(self.folder) else "training"
        if self.done or (self._single_ended and not running):
            return "done"
        return "stopped" if self.trials.known or self._facts else "waiting"

    @property
    def _single_ended(self) -> bool:
        one = self.trials.known.get(SINGLE)
        return one is not None and not one.running

    def _expected(self) -> int:
        records = [one.record for one in self.trials.known.values() if one.record is not None]
        if isinstance(self.spec, CompareSpec):
            return total_estimate(self.spec, records)
        if isinstance(self.spec, GroupSpec):
            return group_estimate(self.spec, records)
        return 1

    def _read_orders(self) -> None:
        fresh = self._orders.read()
        if fresh.again:
            self.orders = []
        self.orders += [order for line in fresh.lines if (order := parse_order(line)) is not None]

    def _read_log(self) -> None:
        if self._log is None:
            return
        fresh = self._log.read()
        if fresh.again:
            self.lines = []
        said = [clean(line.decode(errors="replace")) or "" for line in fresh.lines[-_LOG_LINES:]]
        self.lines = [*self.lines, *said][-_LOG_LINES:]
        self.new_lines = [*self.new_lines, *said][-_LOG_LINES:]


def _plain(order: Order) -> dict[str, Any]:
    return {"when": order.when, "taken": order.taken, "said": clean(order.said)}


def _living(folder: Path) -> Holder | None:
    """Who trains in a folder, as its lock says, and as far as can be told without touching it: a process of this
    machine that is there, or one of another that has shown in the last minute that it lives."""
    found = holder_of(folder)
    if found is None:
        return None
    if found.machine == _HERE:
        return found if found.pid > 0 and psutil.pid_exists(found.pid) else None
    try:
        silent = time.time() - os.stat(folder / LOCK).st_mtime
    except OSError:
        return None
    return found if abs(silent) < SILENT_SECONDS else None
