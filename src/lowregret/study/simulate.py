"""A study's groups on a cluster that is not there: the order in which they train, what fails, and what it costs.

Groups begin in the order in which they would, as soon as there is room on a node. Nodes fail, or are taken back, at
random times; what trained there goes on from its last checkpoint, on any node with room. Pure.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lowregret.plan.resources.hardware import NODE

FAILURE_HOURS = 50_700.0
"""Of one GPU, between two failures: 16,384 H100 met 419 unexpected interruptions in 54 days (Llama Team, The Llama 3
Herd of Models, 2024, section 3.3.4)."""
REPAIR_HOURS = 1.0
"""Until a node that failed, or another in its place, is there. Assumed."""
START_SECONDS = 60.0
"""To start a worker and load a base. Assumed."""
CHECKPOINT_SECONDS = 60.0
"""Between checkpoints, as `--checkpoint-seconds` has it where nobody says otherwise."""
LEAST_HOURS = 0.05
"""Of a node until it is taken back, in the mean: some starts, each with the way to a checkpoint. Of much shorter times
a draw never ends."""
_DRAWS = 8


@dataclass(frozen=True)
class SimulatedGroup:
    """A group of trials."""

    seconds: float
    """Of work, with all its devices."""
    devices: float
    """A part of one, or a whole number of them on one node."""
    after: int | None = None
    """The place in the list of the group that it starts from."""
    trials: int = 1


@dataclass(frozen=True)
class SimulatedCluster:
    """Nodes of equal devices."""

    devices: int
    node: int = NODE
    price_per_hour: float | None = None
    """Of a device."""
    failure_hours: float = FAILURE_HOURS
    preempted_hours: float | None = None
    """Mean time until a node is taken back; never when None."""
    checkpoint_seconds: float = CHECKPOINT_SECONDS


@dataclass(frozen=True)
class Simulation:
    """Means of some draws."""

    seconds: float
    """Until all is trained."""
    utilisation: float
    """Of the devices' time until then: the share that is work which counts."""
    money: float | None
    """Dollars: all devices, until then."""
    losses: float
    """Groups that lost their node."""
    lost_seconds: float
    """Of devices: work that was done again, and starts."""
    longest_seconds: float
    """Of the longest chain of groups, with the devices that each has."""


def simulate(groups: Sequence[SimulatedGroup], cluster: SimulatedCluster, seed: int = 0) -> Simulation:
    """The mean of some draws of what fails; ValueError for a group that no node has room for."""
    node = min(cluster.node, cluster.devices)
    if any(group.devices > node for group in groups):
        raise ValueError(f"a group needs {max(group.devices for group in groups):g} devices; a node has {node}")
    draws = [_Draw(groups, cluster, random.Random(f"{seed} {number}")) for number in range(_DRAWS)]
    seconds = sum(draw.run() for draw in draws) / _DRAWS
    work = sum(group.seconds * group.devices for group in groups)
    price = cluster.price_per_hour
    return Simulation(
        seconds=seconds,
        utilisation=work / (cluster.devices * seconds) if seconds else 0.0,
        money=None if price is None else seconds / 3600 * cluster.devices * price,
        losses=sum(draw.losses for draw in draws) / _DRAWS,
        lost_seconds=sum(draw.lost for draw in draws) / _DRAWS,
        longest_seconds=_longest(groups),
    )


def _longest(groups: Sequence[SimulatedGroup]) -> float:
    """Of a chain, each link of which starts from the one before."""
    ends: list[float] = []
    for group in groups:
        ends.append(group.seconds + (0.0 if group.after is None else ends[group.after]))
    return max(ends, default=0.0)


@dataclass
class _Node:
    free: float
    running: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Group → when its work went on, and when it ends."""
    up: bool = True
    turn: int = 0
    """Counted up when it fails: what was told of it before does not hold any more."""


class _Draw:
    """One course of events."""

    def __init__(self, groups: Sequence[SimulatedGroup], cluster: SimulatedCluster, draw: random.Random) -> None:
        self._groups, self._cluster, self._draw = groups, cluster, draw
        sizes = [cluster.node] * (cluster.devices // cluster.node)
        sizes += [cluster.devices % cluster.node] if cluster.devices % cluster.node else []
        self._sizes = sizes
        self._nodes = [_Node(float(size)) for size in sizes]
        self._left = [group.seconds for group in groups]
        self._least = min((group.devices for group in groups), default=0.0)
        self._waiting = dict.fromkeys(range(len(groups)))
        self._open = set(self._waiting)
        self._events: list[tuple[float, int, str, int, int]] = []
        """(time, number, what, node, group or turn)."""
        self._count = 0
        self.losses, self.lost = 0, 0.0

    def run(self) -> float:
        """Seconds until the last group is trained."""
        now = 0.0
        for node in range(len(self._nodes)):
            self._plan_end(now, node)
        self._begin(now)
        while self._open:
            now, _, what, node, detail = heapq.heappop(self._events)
            if what == "done":
                if detail not in self._nodes[node].running or self._nodes[node].running[detail][1] != now:
                    continue
                self._leave(node, detail)
                self._open.discard(detail)
            elif what == "lost" and self._nodes[node].turn == detail:
                self._lose(now, node)
            elif what == "back":
                self._nodes[node].up = True
                self._plan_end(now, node)
            self._begin(now)
        return now

    def _push(self, when: float, what: str, node: int, detail: int) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, what, node, detail))

    def _plan_end(self, now: float, node: int) -> None:
        """When a node will be lost."""
        rate = self._sizes[node] / self._cluster.failure_hours
        rate += 0.0 if self._cluster.preempted_hours is None else 1 / self._cluster.preempted_hours
        self._push(now + 3600 * self._draw.expovariate(rate), "lost", node, self._nodes[node].turn)

    def _begin(self, now: float) -> None:
        refused = math.inf
        for index in list(self._ready()):
            group = self._groups[index]
            if group.devices >= refused:
                continue
            fitting = [node for node in self._nodes if node.up and node.free + 1e-9 >= group.devices]
            if not fitting:
                if group.devices <= self._least:
                    break
                refused = group.devices  # a smaller one behind it may have room
                continue
            node = min(fitting, key=lambda each: each.free)  # the fullest, so that large groups find a whole one
            node.free -= group.devices
            del self._waiting[index]
            began = now + START_SECONDS
            node.running[index] = began, began + self._left[index]
            self.lost += START_SECONDS * group.devices
            self._push(began + self._left[index], "done", self._nodes.index(node), index)

    def _ready(self) -> Iterator[int]:
        for index in self._waiting:
            if self._groups[index].after not in self._open:
                yield index

    def _leave(self, node: int, group: int) -> None:
        del self._nodes[node].running[group]
        self._nodes[node].free += self._groups[group].devices

    def _lose(self, now: float, number: int) -> None:
        node = self._nodes[number]
        node.up, node.turn = False, node.turn + 1
        for index, (began, _) in list(node.running.items()):
            done = max(0.0, now - began)
            again = min(done, self._draw.uniform(0, self._cluster.checkpoint_seconds))
            self._left[index] -= done - again
            self.losses += 1
            self.lost += again * self._groups[index].devices
            self._leave(number, index)
            self._waiting = {index: None, **self._waiting}
        self._push(now + 3600 * REPAIR_HOURS, "back", number, 0)
