"""Whether a method fits into a device's memory, and what would make it fit. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lowregret.plan.placement import Placement, place
from lowregret.plan.resources.flops import NO_SHARED_PREFIX, SharedPrefix
from lowregret.plan.resources.hardware import Hardware, catalogue
from lowregret.plan.resources.memory import Memory, memory, trainable
from lowregret.plan.resources.parts import divisible
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import AdamW, FullFT, LoRA, OptimizerSpec
from lowregret.spec.lean import kind_of, steps_in_backward
from lowregret.spec.mesh import Mesh

_MOST_DEVICES = 64


@dataclass(frozen=True)
class MemoryBudget:
    """What a method needs of a device's memory, and whether that is there."""

    shapes: Shapes
    length: int
    supervised: int
    checkpoint_activations: bool
    devices: int
    hardware: Hardware | None
    mesh: Mesh | None = None
    """How the devices are arranged, where the user chose it."""
    batch: int = 1
    """Rows of a step: with fewer at once, a step is several passes."""
    shared: SharedPrefix = NO_SHARED_PREFIX
    optimizer: type[OptimizerSpec] = AdamW
    offload_activations: bool = False

    def placement(self, method: FullFT | LoRA) -> Placement:
        """How the devices are used."""
        memory_bytes = None if self.hardware is None else self.hardware.memory_bytes
        return place(
            method,
            self.devices,
            lambda mesh: self.need(method, self.least(method), mesh).total,
            memory_bytes,
            divisible(self.shapes),
            asked=self.mesh,
        )

    def need(self, method: FullFT | LoRA, rows: int, mesh: Mesh) -> Memory:
        """Bytes on each device of a mesh, with so many rows at once."""
        return memory(
            self.shapes,
            method,
            rows=rows,
            length=self.length,
            supervised=self.supervised,
            spared=self.shared.for_method(method).spared(rows),
            checkpoint_activations=self.checkpoint_activations,
            offload_activations=self.offload_activations,
            accumulating=rows < self.batch and not steps_in_backward(method),
            mesh=mesh,
            hardware=self.hardware,
            optimizer=self.optimizer,
        )

    def slices(self, method: FullFT | LoRA, mesh: Mesh) -> int:
        """Over how many devices of a mesh an adapter's moments lie; 1 in FullFT."""
        if isinstance(method, FullFT):
            return 1
        return kind_of(method, self.optimizer).slices(trainable(self.shapes, method), mesh.alike)

    def holds(self, need: Memory) -> bool | None:
        """Whether a device has so much; None when no hardware is named."""
        return None if self.hardware is None else need.total <= self.hardware.memory_bytes

    def least(self, method: FullFT | LoRA) -> int:
        """Rows that are at once at the least: one, or the batch where a step is one pass."""
        return self.batch if steps_in_backward(method) else 1

    def fits(self, method: FullFT | LoRA) -> bool | None:
        """With as few rows at a time as may be; None when no hardware is named."""
        return self.placement(method).fits

    def remedy(self, method: FullFT | LoRA) -> str:
        """The least change that makes one row fit, as the flags to give, one if one does; empty when none of those
        tried does."""
        if self.mesh is not None and replace(self, mesh=None).fits(method):
            return "without --parallel"
        again = replace(self, checkpoint_activations=True, offload_activations=False)
        if again.fits(method):
            return "--checkpoint-activations"
        if isinstance(method, FullFT) and not (kind_of(method).IN_PARTS and not method.in_backward):
            return ""
        for budget, flags in ((self, ""), (again, " --checkpoint-activations")):
            devices = 2 * self.devices
            while devices <= _MOST_DEVICES:
                if replace(budget, devices=devices, mesh=None).fits(method):
                    return f"--devices {devices}{flags}"
                devices *= 2
        return ""

    def longest(self, method: FullFT | LoRA, most: int) -> int:
        """Tokens of the longest row, up to `most`, of which the least that may be at once fit; 0 when none does, or no
        hardware is named."""

        def fits(length: int) -> bool:
            return bool(replace(self, length=length, supervised=length).fits(method))

        low, high = 0, most + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    def cheapest(self, method: FullFT | LoRA) -> Hardware | None:
        """The least device of the catalogue that holds one row and has a price; None when none does."""
        return next(
            (device for device in catalogue() if device.price_per_hour and replace(self, hardware=device).fits(method)),
            None,
        )

    def smallest(self, method: FullFT | LoRA) -> str:
        """The least device of the catalogue that holds one row; empty when none does."""
        return next((device.name for device in catalogue() if replace(self, hardware=device).fits(method)), "")
