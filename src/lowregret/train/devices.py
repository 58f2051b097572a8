"""How the devices of a run are arranged: as the user says, else as their memory allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from lowregret.engine import Engine
from lowregret.engine.device import choose_device
from lowregret.engine.footprint import device_memory
from lowregret.engine.parallel.fsdp import in_parts
from lowregret.engine.parallel.launch import device_count
from lowregret.errors import SpecError
from lowregret.plan.resources.budget import MemoryBudget
from lowregret.plan.resources.hardware import catalogue
from lowregret.plan.resources.parts import divisible, require_blocks
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import FullFT, TrainingSpec
from lowregret.spec.lean import kind_of, require_mesh
from lowregret.spec.mesh import Mesh, require, require_devices
from lowregret.spec.method import Quantisation
from lowregret.spec.trial import ShownSpec


@dataclass(frozen=True)
class Arrangement:
    """Of the devices of one run, for all its methods: they share an engine."""

    mesh: Mesh
    base_in_parts: bool
    """Whether no device holds all of a LoRA's base."""


def arrange(spec: TrainingSpec, shapes: Callable[[], Shapes], quantisation: Quantisation = "none") -> Arrangement:
    """For an engine on a base of this quantisation: the mesh of `spec.parallel`; else on GPUs the one that the plan
    places its methods on, where they differ that of FullFT, and on CPUs, which share their memory, the base whole on
    each. SpecError for one that does not divide the base, or that a method is not computed with."""
    count = device_count(spec.devices)
    for method in spec.asked if count > 1 else ():
        if not kind_of(method).ELEMENTWISE:
            require_blocks(shapes(), method, count)
    if spec.parallel is not None:
        mesh = Mesh.parse(spec.parallel)
        require_devices(mesh, count)
        require(mesh, divisible(shapes()))
        if mesh.expert > 1 and isinstance(spec, ShownSpec) and spec.replies:
            raise SpecError(f"--parallel {mesh}: no replies are drawn where experts are shared. Add --replies 0.")
        return Arrangement(mesh, mesh.shard > 1)
    whole = quantisation != "none"  # such a base is not cut (engine/placing.py)
    if count == 1 or whole or choose_device(spec.device).type == "cpu":
        return Arrangement(Mesh(shard=count), base_in_parts=False)
    there = device_memory(torch.device("cuda"))
    near = min(catalogue(), key=lambda known: abs(known.memory_bytes - there))
    hardware = replace(near, memory_bytes=there)  # all that placing asks a device for
    length = spec.data.max_length
    budget = MemoryBudget(shapes(), length, length, spec.checkpoint_activations, count, hardware)
    asked = [method for method in spec.asked if method.quantisation == quantisation]
    placed = [(method, budget.placement(method).mesh) for method in asked]
    loras = [mesh for method, mesh in placed if not isinstance(method, FullFT)]
    most = max(
        (mesh for method, mesh in placed if isinstance(method, FullFT) or not spec.trains_base),
        key=lambda mesh: mesh.tensor,
    )
    for method in asked:
        require_mesh(method, most)
    mesh = most if most.tensor > 1 else Mesh(shard=count)  # each copy of a whole base is one, whatever it is called
    return Arrangement(mesh, mesh.shard > 1 and (not loras or any(own.in_parts for own in loras)))


def device_lines(engine: Engine) -> list[str]:
    """What to say of an engine on several devices."""
    mesh = engine.ranks.mesh
    if mesh is None:
        return []
    sizes = dict(zip(mesh.mesh_dim_names or (), mesh.shape, strict=True))
    base = "in parts" if in_parts(engine.model) else "whole on each" if not engine.cuts.any else "cut"
    return [f"devices: {engine.ranks.count}, {Mesh(**sizes)}; a LoRA's base is {base}"]
