"""Whether a method fits into a device's memory, and what would make it fit. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lowregret.plan.resources.flops import NO_SHARED_PREFIX, SharedPrefix
from lowregret.plan.resources.hardware import Hardware, catalogue
from lowregret.plan.resources.memory import Memory, memory
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import AdamW, FullFT, LoRA, OptimizerSpec

_MOST_SHARDS = 64


@dataclass(frozen=True)
class MemoryBudget:
    """What a method needs of a device's memory, and whether that is there."""

    shapes: Shapes
    length: int
    supervised: int
    checkpoint_activations: bool
    shards: int
    hardware: Hardware | None
    batch: int = 1
    """Rows of a step: with fewer at once, a step is several passes."""
    shared: SharedPrefix = NO_SHARED_PREFIX
    optimizer: type[OptimizerSpec] = AdamW

    def need(self, method: FullFT | LoRA, rows: int) -> Memory:
        """Bytes on each device."""
        return memory(
            self.shapes,
            method,
            rows=rows,
            length=self.length,
            supervised=self.supervised,
            spared=self.shared.for_method(method).spared(rows),
            checkpoint_activations=self.checkpoint_activations,
            accumulating=rows < self.batch,
            shards=self.shards,
            hardware=self.hardware,
            optimizer=self.optimizer,
        )

    def fits(self, method: FullFT | LoRA, rows: int = 1) -> bool | None:
        """None when no hardware is named."""
        return None if self.hardware is None else self.need(method, rows).total <= self.hardware.memory_bytes

    def remedy(self, method: FullFT | LoRA) -> str:
        """The least change that makes one row fit, as the flag to give; empty when none of those tried does."""
        if replace(self, checkpoint_activations=True).fits(method):
            return "--checkpoint-activations"
        shards = 2 * self.shards
        while shards <= _MOST_SHARDS:
            if replace(self, shards=shards).fits(method):
                return f"--shards {shards}"
            shards *= 2
        return ""

    def cheapest(self, method: FullFT | LoRA) -> Hardware | None:
        """The least device of the catalogue that holds one row and has a price; None when none does."""
        return next(
            (device for device in catalogue() if device.price_per_hour and replace(self, hardware=device).fits(method)),
            None,
        )

    def smallest(self, method: FullFT | LoRA) -> str:
        """The least device of the catalogue that holds one row; empty when none does."""
        return next((device.name for device in catalogue() if replace(self, hardware=device).fits(method)), "")
