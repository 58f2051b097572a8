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
from lowregret.plan.resources.parts import divisible
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import LoRA, TrainingSpec
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
    if spec.parallel is not None:
        mesh = Mesh.parse(spec.parallel)
        require_devices(mesh, count)
        require(mesh, divisible(shapes()))
        if mesh.expert > 1 and isinstance(spec, ShownSpec) and spec.replies:
            raise SpecError(f"--parallel {mesh}: no replies are drawn where experts are shared. Add --replies 0.")
        if spec.trains_base and mesh.shard > 1 and mesh.tensor * mesh.expert > 1:
            rest = mesh.model_copy(update={"shard": 1, "replicate": mesh.replicate * mesh.shard})
            raise SpecError(
                f"--parallel {mesh}: full fine-tuning is not computed with fsdp beside tensor or expert. "
                f"Use --parallel {rest}, or fsdp={count}."
            )
        return Arrangement(mesh, mesh.shard > 1)
    if count == 1 or choose_device(spec.device).type == "cpu":
        return Arrangement(Mesh(shard=count), base_in_parts=False)
    there = device_memory(torch.device("cuda"))
    near = min(catalogue(), key=lambda known: abs(known.memory_bytes - there))
    hardware = replace(near, memory_bytes=there)  # all that placing asks a device for
    length = spec.data.max_length
    budget = MemoryBudget(shapes(), length, length, spec.checkpoint_activations, count, hardware)
    loras = [method for method in spec.asked if isinstance(method, LoRA) and method.quantisation == quantisation]
    found = [budget.placement(method).mesh for method in loras]
    cut = max(found, key=lambda mesh: mesh.tensor, default=Mesh(shard=count))
    if cut.tensor > 1 and not spec.trains_base:  # full fine-tuning lies in parts: it takes all devices for them
        return Arrangement(cut, base_in_parts=False)
    return Arrangement(Mesh(shard=count), not found or any(mesh.in_parts for mesh in found))


def device_lines(engine: Engine) -> list[str]:
    """What to say of an engine on several devices."""
    mesh = engine.ranks.mesh
    if mesh is None:
        return []
    sizes = dict(zip(mesh.mesh_dim_names or (), mesh.shape, strict=True))
    base = "in parts" if in_parts(engine.model) else "whole on each" if not engine.cuts.any else "cut"
    return [f"devices: {engine.ranks.count}, {Mesh(**sizes)}; a LoRA's base is {base}"]
