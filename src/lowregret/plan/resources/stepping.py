"""What a method's optimizer takes of a device: bytes that stay, and bytes while it works. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from lowregret.plan.resources.trainer import Trainer
from lowregret.plan.shapes.weights import Shapes, WeightKind
from lowregret.spec import FullFT, LoRA, OptimizerSpec
from lowregret.spec.lean import kind_of, steps_in_backward
from lowregret.spec.optimizer import NUMBER_BYTES, Adafactor, Muon

_PIECE = 2**22 * 24
"""Bytes of a piece that is stepped on moments of 8 bits, in float32 (engine/optim/lean_adamw.py)."""
_OUTSIDE: tuple[WeightKind, ...] = ("embedding", "unembedding")


@dataclass(frozen=True)
class Stepping:
    """One method's optimizer over the weights that it trains."""

    kind: type[OptimizerSpec]
    number: float
    """Bytes of a weight, and of its gradient."""
    in_backward: bool
    inside: float
    """The share of the numbers that train which lies in matrices of layers."""
    largest: int
    """Numbers of the largest weight of a layer, and of any."""
    outside: int

    @property
    def state(self) -> float:
        """Bytes that the optimizer keeps for each number that trains."""
        return self.kind.state_bytes(self.inside) * self.number / self.kind.weight_bytes()

    @property
    def gradient(self) -> float:
        """Bytes of gradients for each number that trains, at the end of the backward pass."""
        return 0.0 if self.in_backward else self.number

    @property
    def traffic(self) -> float:
        """Bytes that a step moves for each number that trains, with the type of the weights as they are stored."""
        return self.kind.step_traffic(self.inside) * self.number / self.kind.weight_bytes()

    def working(self, *, inside: bool = False) -> float:
        """Bytes beside all these while it steps the weight for which it needs most, of those of layers if `inside`, and
        that weight's gradient, where it would otherwise be gone."""
        largest = self.largest if inside else max(self.largest, self.outside)
        own = {Adafactor: 2 * NUMBER_BYTES * largest, Muon: 3 * NUMBER_BYTES * self.largest}
        beside = own.get(self.kind, _PIECE if self.kind.NEEDS else 0)
        return beside + (self.number * largest if self.in_backward else 0)


def stepping(shapes: Shapes, method: FullFT | LoRA, asked: type[OptimizerSpec], trainer: Trainer) -> Stepping:
    """What steps a method, of a run whose own optimizer is `asked`."""
    kind = kind_of(method, asked)
    if isinstance(method, LoRA):
        return Stepping(kind, NUMBER_BYTES, False, 1.0, 0, 0)
    narrow = kind.weight_bytes() < NUMBER_BYTES
    counts = shapes.by_kind()
    outside = sum(counts.get(name, 0) for name in _OUTSIDE)
    weights = [weight for weight in shapes.weights if not weight.tied]
    return Stepping(
        kind,
        kind.weight_bytes() if narrow else trainer.full_bytes,
        steps_in_backward(method),
        1 - outside / shapes.total,
        max((w.size for w in weights if w.kind not in _OUTSIDE), default=0),
        max((w.size for w in weights if w.kind in _OUTSIDE), default=0),
    )
