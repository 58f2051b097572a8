"""`lowregret plan --study NAME --cluster 64xH100`: a study's time and money there. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lowregret import limits
from lowregret.errors import SpecError, did_you_mean
from lowregret.plan.resources.hardware import Hardware, find_hardware
from lowregret.questions.registry import QUESTIONS, make_question
from lowregret.spec import GroupSpec, build
from lowregret.spec.plan import PlanSpec
from lowregret.study.needs import GroupCost, Machines, group_cost, spread
from lowregret.study.simulate import LEAST_HOURS, SimulatedCluster, SimulatedGroup, Simulation, simulate

ALL = "all"


@dataclass(frozen=True)
class PlannedGroup:
    """One group, with what it gets."""

    key: str
    """QUESTION CONDITION.METHOD."""
    cost: GroupCost
    after: int | None = None
    """The place of the group that it starts from."""

    @property
    def simulated(self) -> SimulatedGroup:
        return SimulatedGroup(self.cost.seconds, self.cost.needs.gpus, self.after, self.cost.trials)


@dataclass(frozen=True)
class SimulatedStudy:
    """A study on one cluster."""

    devices: int
    hardware: Hardware
    groups: Sequence[PlannedGroup]
    simulation: Simulation

    @property
    def trials(self) -> int:
        return sum(group.cost.trials for group in self.groups)

    @property
    def longest(self) -> PlannedGroup:
        return max(self.groups, key=lambda group: group.cost.seconds)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "devices": self.devices,
            "hardware": self.hardware.name,
            "groups": len(self.groups),
            "trials": self.trials,
            **asdict(self.simulation),
            "longest_group": self.longest.key,
        }


def simulate_study(
    name: str,
    cluster: str,
    *,
    models: Sequence[str] = (),
    price: float | None = None,
    preempted_hours: float | None = None,
) -> list[SimulatedStudy]:
    """On the cluster that is named, and on a half, a quarter and an eighth of it.

    Args:
        name: a question's, or `all`.
        cluster: NUMBERxHARDWARE.
        models: the bases, in the place of each question's own; with several the study is run on each.
        price: of a device, dollars an hour; the catalogue's when None.
        preempted_hours: mean time until a node is taken back; never when None.

    Raises:
        SpecError: a name that is none, a price that `plan` takes for none, a group that no node holds, or nodes that
            are taken back too soon.
    """
    price = build(PlanSpec, {"price": price}).price
    if preempted_hours is not None and not LEAST_HOURS <= preempted_hours <= limits.SECONDS:
        raise SpecError(
            f"--preempted-hours {preempted_hours:g}: must be {LEAST_HOURS:g} or more and at most {limits.SECONDS:,}, "
            "such as 6: on nodes that are taken back sooner, little is done between a start and the next one."
        )
    devices, hardware = parse_cluster(cluster)
    groups = _groups(name, models)
    counts = sorted({max(1, devices >> halved) for halved in range(4)})
    found = []
    for count in reversed(counts):
        there = SimulatedCluster(
            count,
            hardware.node,
            hardware.price_per_hour if price is None else price,
            preempted_hours=preempted_hours,
        )
        try:
            found.append(_simulate(groups, hardware, there))
        except SpecError:
            if count == devices:
                raise
    return found


def parse_cluster(text: str) -> tuple[int, Hardware]:
    """`64xH100`: how many, and of what; SpecError for anything else."""
    parts = re.fullmatch(r"(\d{1,6})\s*[x×]\s*(.+)", text.strip())
    if parts is None or not 1 <= int(parts[1]) <= limits.DEVICES:
        most = f"at most {limits.DEVICES:,} of it"
        raise SpecError(f"--cluster {text!r}: give NUMBERxHARDWARE, such as 64xH100, {most}.")
    if parts[2].lower() in ("cpu", "auto"):
        raise SpecError(f"--cluster {text!r}: clusters of GPUs are simulated. Name one, such as 8xH100.")
    return int(parts[1]), find_hardware(parts[2])


def _groups(name: str, models: Sequence[str]) -> list[tuple[str, GroupSpec]]:
    if name != ALL and name not in QUESTIONS:
        raise SpecError(f"--study {name!r}: {did_you_mean(name, (*QUESTIONS, ALL))}")
    kinds = [kind for kind, question in QUESTIONS.items() if question.IN_ALL] if name == ALL else [name]
    found: list[tuple[str, GroupSpec]] = []
    for model in models or [""]:
        for kind in kinds:
            question = make_question({"kind": kind})
            own = "models" in type(question).model_fields or not question.bases
            if model and own and name == ALL:
                continue  # it compares bases of its own
            for group in question.groups():
                changed = {"model": model} if model else {}
                found.append((f"{model} {kind}".strip(), group.model_copy(update=changed)))
    if not found:
        raise SpecError(f"--study {name}: trains no groups of trials, so that there is nothing to place on a cluster.")
    return found


def _simulate(groups: Sequence[tuple[str, GroupSpec]], hardware: Hardware, cluster: SimulatedCluster) -> SimulatedStudy:
    machines = Machines(True, hardware)
    counts = spread([group for _, group in groups], machines, cluster.devices)
    planned: list[PlannedGroup] = []
    places: dict[tuple[str, str], int] = {}
    for (label, group), count in zip(groups, counts, strict=True):
        cost = group_cost(group.model_copy(update={"devices": count}), machines)
        if not cost.fits:
            raise SpecError(
                f"--cluster: {label} {group.key} fits on no node of {min(cluster.node, cluster.devices)} "
                f"{hardware.name}. Name larger devices or more of them, or a smaller base."
            )
        kind = group.key.rpartition(".")[2]
        after = None if group.start_from is None else places.get((label, f"{group.start_from}.{kind}"))
        places[label, group.key] = len(planned)
        planned.append(PlannedGroup(f"{label} {group.key}", cost, after))
    return SimulatedStudy(cluster.devices, hardware, planned, simulate(_longest_first(planned), cluster))


def _longest_first(planned: Sequence[PlannedGroup]) -> list[SimulatedGroup]:
    """In the order in which they would begin, those that others start from before these."""
    ways = [group.cost.seconds for group in planned]
    for place in reversed(range(len(planned))):
        after = planned[place].after
        if after is not None:
            ways[after] = max(ways[after], planned[after].cost.seconds + ways[place])
    order = sorted(range(len(planned)), key=lambda place: -ways[place])
    new = {old: place for place, old in enumerate(order)}
    found = []
    for old in order:
        simulated, after = planned[old].simulated, planned[old].after
        found.append(replace(simulated, after=None if after is None else new[after]))
    return found
