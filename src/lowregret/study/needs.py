"""What a group of a study's trials needs of a machine, and how long it takes, by the plan's counts. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from lowregret.errors import LowregretError
from lowregret.plan.placement import PACK
from lowregret.plan.resources.budget import MemoryBudget
from lowregret.plan.resources.cost import PRUNED_SHARE, run_cost
from lowregret.plan.resources.hardware import NODE, Hardware
from lowregret.plan.resources.memory import CPU_PROCESS
from lowregret.plan.shapes.lookup import find_model
from lowregret.spec import RL, FullFT, GroupSpec, LoRA
from lowregret.study.execute.job import Needs
from lowregret.study.lattice import group_estimate

SMALL_BYTES = 200_000_000
"""Of a base, up to which one trial leaves cores of a CPU idle."""
_LARGE_CPUS = 8
"""Of a group on a CPU whose base is larger."""
_PARTS = 8
"""A GPU is shared in eighths; who needs more than half of one has it alone."""
_LONG = 0.5
"""Of the time that all work takes if it is shared evenly: a group that takes longer gets more devices."""
_FASTER = 0.7
"""Of a group's time: what it must take at most with twice as many devices, to get them."""
_WIDE = 4
"""Bytes of a base's number on a CPU."""
USUAL_CPU = Hardware(
    name="CPU",
    kind="cpu",
    memory_bytes=0,
    flops_per_second=2e11,
    bytes_per_second=2e10,
    utilisation=0.5,
    call_seconds=1e-5,
    price_per_hour=None,
    source="assumed, to compare groups with each other",
)


@dataclass(frozen=True)
class Machines:
    """What the workers of a study have."""

    gpus: bool = False
    hardware: Hardware | None = None
    """The GPU; None where its kind is not known."""


@dataclass(frozen=True)
class GroupCost:
    """One group."""

    needs: Needs
    trials: int
    """A guess: the search decides."""
    seconds: float
    """All trials, on one worker with all its devices."""
    fits: bool = True
    """Whether the devices hold it, as far as is known."""


@lru_cache(maxsize=4096)
def group_cost(group: GroupSpec, machines: Machines) -> GroupCost:
    """By the shapes of its base and its rows, taken to be as long as they may be; of a base that the plan cannot lay
    out, one CPU or one GPU, and no time."""
    trials = group_estimate(group, [])
    on_gpu = machines.gpus and not group.device.startswith("cpu")
    gpus = float(group.devices) if on_gpu else 0.0
    unknown = GroupCost(Needs(1 if on_gpu else group.devices, gpus=gpus), trials, 0.0)
    hardware = machines.hardware if on_gpu else USUAL_CPU
    try:
        shapes = find_model(group.model)
        budget = MemoryBudget(
            shapes,
            group.data.max_length,
            group.data.max_length,
            group.checkpoint_activations,
            group.devices,
            hardware,
            batch=_rows(group),
            optimizer=type(group.optimizer),
        )
        bytes_each = max(_bytes(group, method, budget) for method in group.methods)
        seconds = sum(_seconds(group, method, budget) for method in group.methods) / len(group.methods)
    except LowregretError:
        return unknown
    total = seconds * trials * (1 - PRUNED_SHARE if group.prune is not None else 1)
    if not on_gpu:
        cpus = group.devices if group.devices > 1 else 1 if _WIDE * shapes.total <= SMALL_BYTES else _LARGE_CPUS
        return GroupCost(Needs(cpus, bytes_each * group.devices), trials, total)
    host = CPU_PROCESS + _WIDE * shapes.total
    if group.devices == 1 and hardware is not None:
        gpus = _share(bytes_each / hardware.memory_bytes)
    fits = hardware is None or bytes_each <= hardware.memory_bytes
    return GroupCost(Needs(group.devices, host, gpus), trials, total, fits)


def spread(groups: Sequence[GroupSpec], machines: Machines, devices: int) -> list[int]:
    """Of each group, how many of so many GPUs train it: the fewest that hold it, twice as many again for the longest
    one for as long as it takes longer than its share of all work allows and is faster with more; never more than a
    node has. Where the user says how many, or on CPUs, as many as that."""
    chosen = [group.devices for group in groups]
    node = min(devices, NODE if machines.hardware is None else machines.hardware.node)
    if not machines.gpus or machines.hardware is None:
        return chosen
    free = [group.devices == 1 and group.parallel is None and not group.device.startswith("cpu") for group in groups]

    def cost(index: int, count: int) -> GroupCost:
        return group_cost(groups[index].model_copy(update={"devices": count}), machines)

    for index in range(len(groups)):
        while free[index] and not cost(index, chosen[index]).fits and 2 * chosen[index] <= node:
            chosen[index] *= 2
    costs = [cost(index, count) for index, count in enumerate(chosen)]
    free = [each and one.needs.gpus >= 1 for each, one in zip(free, costs, strict=True)]
    while any(free):
        share = sum(each.seconds * each.needs.gpus for each in costs) / devices
        longest = max((index for index in range(len(groups)) if free[index]), key=lambda index: costs[index].seconds)
        if costs[longest].seconds <= _LONG * share:
            break
        more = cost(longest, 2 * chosen[longest]) if 2 * chosen[longest] <= node else None
        if more is None or more.seconds > _FASTER * costs[longest].seconds:
            free[longest] = False
            continue
        chosen[longest] *= 2
        costs[longest] = more
    return chosen


def _rows(group: GroupSpec) -> int:
    return group.batch_size * (group.objective.group_size if isinstance(group.objective, RL) else 1)


def _bytes(group: GroupSpec, method: FullFT | LoRA, budget: MemoryBudget) -> int:
    """On each device: of LoRAs a pack's, whose rows share a pass where there is room."""
    rows = min(_rows(group), group.micro_batch_size or _rows(group)) * (PACK if isinstance(method, LoRA) else 1)
    mesh = budget.placement(method).mesh
    while rows > 1 and budget.hardware is not None and budget.hardware.kind == "gpu":
        if budget.need(method, rows, mesh).total <= budget.hardware.memory_bytes:
            break
        rows //= 2
    return budget.need(method, rows, mesh).total


def _seconds(group: GroupSpec, method: FullFT | LoRA, budget: MemoryBudget) -> float:
    """Of one trial; where devices train trials of their own, its share."""
    hardware = budget.hardware or USUAL_CPU
    placement = budget.placement(method)
    evaluations = len(group.evals) if isinstance(group.evals, tuple) else group.evals
    held_out = (group.data.max_eval or 0) * group.data.max_length * evaluations
    apart = 1 if placement.deals_rows else placement.mesh.data
    cost = run_cost(
        budget.shapes,
        method,
        hardware,
        rows=_rows(group),
        steps=group.steps or 1,
        length=group.data.max_length,
        eval_tokens=float(held_out),
        checkpoint_activations=group.checkpoint_activations,
        mesh=placement.mesh,
        deals_rows=placement.deals_rows,
        optimizer=type(group.optimizer),
    )
    return cost.seconds / apart


def _share(share: float) -> float:
    parts = max(1, math.ceil(_PARTS * share))
    return parts / _PARTS if 2 * parts <= _PARTS else 1.0
