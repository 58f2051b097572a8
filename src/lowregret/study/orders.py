"""What a run is asked while it trains, and obeys between two steps: stop a trial, train one more, add a seed, wait.

An order says at which steps of the trials in training it was taken. A run that goes on from a checkpoint before that
obeys it when they have come there again, so that it ends with the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import final

from lowregret import limits
from lowregret.errors import LowregretError
from lowregret.runs.records import STOPPED, TrialRecord
from lowregret.runs.requests import (
    MOST_ORDERS,
    Kind,
    Order,
    Request,
    answer,
    forget,
    now,
    read_orders,
    stamp,
    waiting,
)
from lowregret.spec import CompareSpec, FullFT, GroupSpec, Method, TrialSpec, build
from lowregret.study.lattice import lattice_rate, nearest_exponent

_LOOK_SECONDS = 0.2
"""Between two looks at what is asked: a small base takes hundreds of steps a second."""
_AGAIN_SECONDS = 3.0
"""After a change the folder is looked into for so long: some file systems keep times to the second or two, so that what
comes next may not show in them."""


RequireFit = Callable[[Method], None]


@final
class Orders:
    """The orders of one compare, or of one group of a study."""

    def __init__(
        self,
        folder: Path,
        spec: CompareSpec | GroupSpec,
        say: Callable[[str], None],
        refused: Mapping[Kind, str] = MappingProxyType({}),
    ) -> None:
        """`refused`: what this session does not train, whoever asks, and why."""
        self._folder, self._spec, self._say, self._refused = folder, spec, say, refused
        found = read_orders(folder)
        self._answered = {order.id for order in found}
        self._taken = [order for order in found if order.taken and order.request is not None]
        self._force: list[Order] = []
        self._stamp, self._looked, self._changed = -1, -1.0, -1.0

    @property
    def stopped(self) -> Collection[str]:
        """The ids of trials that were asked to stop."""
        return {str(order.request.trial) for order in self._taken if order.request and order.request.kind == "stop"}

    def look(
        self,
        steps: Mapping[str, int],
        records: Sequence[TrialRecord],
        require_fit: RequireFit,
        ending: Mapping[str, int] = MappingProxyType({}),
    ) -> bool:
        """Answer what is asked; whether another order is in force from now on.

        Args:
            steps: trial in training → the steps that it has taken.
            records: of all trials of the run.
            require_fit: raises LowregretError where the base cannot have a method.
            ending: the same of those that have ended with this round, of which the records do not tell yet: what is
                asked now is obeyed after their end.
        """
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._looked = time.monotonic()
            changed = stamp(self._folder)
            if changed != self._stamp:
                self._stamp, self._changed = changed, self._looked
            if self._looked - self._changed < _AGAIN_SECONDS:
                for name, asked in waiting(self._folder).items():
                    self._answer(name, asked, steps, records, require_fit, ending)
        return self.see(steps, records)

    def see(self, steps: Mapping[str, int], records: Sequence[TrialRecord], *, everything: bool = False) -> bool:
        """Which orders are in force where the trials in training stand so; whether these are others than before."""
        before = len(self._force)
        ended = {record.id for record in records if record.status != "running"}
        self._force = [order for order in self._taken if everything or _reached(order, steps, ended)]
        return len(self._force) != before

    def grown(self, spec: CompareSpec) -> CompareSpec:
        """A comparison with the seeds that were added."""
        return spec.model_copy(update={"seeds": min(_seeds(spec.seeds, self._force), limits.REPEATS)})

    def trials(self) -> list[TrialSpec]:
        """Those that were asked for, whatever the search wants."""
        return [request.spec for request in self._requests() if request.spec is not None]

    def stops(self, steps: Mapping[str, int]) -> dict[str, str]:
        """Trial in training → why it ends now."""
        found: dict[str, str] = {}
        for order in self._taken:
            name = None if order.request is None else order.request.trial
            if name is not None and name in steps and steps[name] >= order.steps.get(name, 0):
                found[name] = f"{STOPPED} after step {steps[name]}"
        return found

    def _requests(self) -> list[Request]:
        return [order.request for order in self._force if order.request is not None]

    def _answer(
        self,
        name: str,
        asked: Request | str,
        steps: Mapping[str, int],
        records: Sequence[TrialRecord],
        require_fit: RequireFit,
        ending: Mapping[str, int],
    ) -> None:
        if name in self._answered:  # a kill came between the answer and this
            forget(self._folder, name)
            return
        if len(self._answered) >= MOST_ORDERS:  # another line, and the file would not be read any more
            forget(self._folder, name)
            self._say(f"asked from outside, and not answered: {MOST_ORDERS:,} requests of this run were, which is all")
            return
        refusal = (
            f"not understood: {asked}" if isinstance(asked, str) else self._refusal(asked, steps, records, require_fit)
        )
        request = None if isinstance(asked, str) else asked
        said = refusal or ("" if request is None else _promise(request))
        ended = sum(record.status != "running" for record in records)
        order = Order(
            id=name,
            when=now(),
            request=request,
            taken=not refusal,
            said=said,
            ended=ended,
            steps={} if refusal else {**steps, **ending},
            seeds=self._one_more(request) if not refusal else None,
        )
        answer(self._folder, order)
        self._answered.add(name)
        if not refusal:
            self._taken.append(order)
        self._say(f"asked from outside: {said}" if not refusal else f"asked from outside, and refused: {said}")

    def _one_more(self, request: Request | None) -> int | None:
        if request is None or request.kind != "seed":
            return None
        return min(_seeds(self._spec.seeds, self._taken) + 1, limits.REPEATS)

    def _refusal(
        self, asked: Request, steps: Mapping[str, int], records: Sequence[TrialRecord], require_fit: RequireFit
    ) -> str:
        """Why it cannot be obeyed; "" when it can."""
        if asked.kind in self._refused:
            return self._refused[asked.kind]
        if asked.kind == "stop":
            return "" if asked.trial in steps else f"{asked.trial} is not in training"
        if asked.kind == "seed":
            if isinstance(self._spec, CompareSpec):
                return ""
            return "a question has as many seeds as its study: run the same command with a larger --seeds"
        assert asked.spec is not None
        there = {record.spec.id for record in records if not record.put_aside}
        there |= {order.request.spec.id for order in self._taken if order.request and order.request.spec}
        if asked.spec.id in there:  # of rates an id has six digits: two that share them would share a folder
            return f"{asked.spec.id} is there already"
        return self._unfit(asked.spec, require_fit)

    def _unfit(self, trial: TrialSpec, require_fit: RequireFit) -> str:
        """Why a trial is none of this run."""
        method, spec = trial.method, self._spec
        if method.quantisation not in spec.quantisations:
            return f"{method.name}: no base of this run is quantised like that"
        if isinstance(spec, GroupSpec):
            near = lattice_rate(nearest_exponent(trial.learning_rate))
            if trial.learning_rate != near:
                return f"the rates of a study lie on one lattice: the nearest is {near!r}"
            if isinstance(method, FullFT) != isinstance(spec.methods[0], FullFT) or trial.seed >= spec.seeds:
                return "this group has other methods, or fewer seeds"
        if method in spec.methods:
            return ""
        try:  # what a spec of these methods would say against it
            build(type(spec), {**spec.model_dump(mode="json"), "methods": [*spec.methods, method]})
            require_fit(method)
        except LowregretError as error:
            return str(error).splitlines()[0][:300]
        return ""


def _seeds(asked: int, orders: Sequence[Order]) -> int:
    """Of a command, with those that were added. An order of before it noted how many that makes is one more."""
    kind = [order for order in orders if order.request is not None and order.request.kind == "seed"]
    uncounted = sum(order.seeds is None for order in kind)
    return max([asked + uncounted, *(order.seeds for order in kind if order.seeds is not None)])


def _reached(order: Order, steps: Mapping[str, int], ended: Collection[str]) -> bool:
    there = all(name in ended or steps.get(name, -1) >= step for name, step in order.steps.items())
    return there and len(ended) >= order.ended


def _promise(asked: Request) -> str:
    if asked.kind == "stop":
        return f"{asked.trial} ends here"
    if asked.spec is not None:
        return f"{asked.spec.id} is trained as well"
    return "one more seed of every method"
