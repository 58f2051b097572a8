"""The optimizer's state of an adapter in slices over the ranks that hold the same weights (ZeRO-1, arXiv 1910.02054).

Weights and gradients stay whole on each of them. A rank steps its own slice of the adapter's numbers, and then all are
told what became of each. So state takes 1 / ranks of its bytes, and a step sends the weights once more. A norm for
clipping is that of whole gradients, which every rank has; and where an optimizer steps each number by itself, slices
move as the whole does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from lowregret.engine.parallel.mesh import Axis
from lowregret.lora.bank import WeightSlice
from lowregret.spec import LoRA

GRAIN = 64
"""A slice begins at a multiple of it: torch's fused AdamW rounds the numbers at the end of a vector, which fill no
vector register, in another way than all before them."""


@dataclass(frozen=True)
class StateSlices:
    """How the optimizer's state of one adapter lies over ranks."""

    axis: Axis
    weights: Sequence[WeightSlice]
    """Of the adapter, in the order in which they lie in its numbers."""
    method: LoRA

    @property
    def numbers(self) -> int:
        """Of the adapter."""
        return int(self.weights[-1].place.stop)

    @property
    def own(self) -> slice:
        """The numbers that this rank steps."""
        return self._slice(self.axis.rank)

    def _slice(self, rank: int) -> slice:
        each = -(-self.numbers // (self.axis.count * GRAIN)) * GRAIN
        return slice(min(rank * each, self.numbers), min((rank + 1) * each, self.numbers))

    def of_weight(self, weight: WeightSlice) -> slice:
        """Those of them that are a weight's, which may be none."""
        return _common(self.own, weight.place)

    def runs(self, numbers: Float[Tensor, " own"]) -> dict[str, Tensor]:
        """By weight, its part of numbers that lie as this rank's do."""
        places = {weight.name: self.of_weight(weight) for weight in self.weights}
        return {name: numbers[_within(place, self.own)] for name, place in places.items()}

    def share(self, numbers: Float[Tensor, " numbers"]) -> None:
        """Put in place what each rank has made of its slice; every rank must ask."""
        for rank in range(self.axis.count):
            self.axis.told(numbers[self._slice(rank)], rank)

    def part(self, name: str, whole: Tensor) -> Float[Tensor, " run"]:
        """This rank's run of what is kept of a weight, of the whole of it."""
        weight = self._weight(name)
        padded = whole.new_zeros(weight.place.stop - weight.place.start)
        weight.view(padded, self.method).copy_(whole)
        return padded[_within(self.of_weight(weight), weight.place)]

    def joined(self, name: str, run: Float[Tensor, " run"]) -> Tensor:
        """The whole of what is kept of a weight, of this rank's run; every rank must ask."""
        weight = self._weight(name)
        padded = run.new_empty(weight.place.stop - weight.place.start)
        padded[_within(self.of_weight(weight), weight.place)] = run
        for rank in range(self.axis.count):
            self.axis.told(padded[_within(_common(self._slice(rank), weight.place), weight.place)], rank)
        return weight.view(padded, self.method)

    def _weight(self, name: str) -> WeightSlice:
        return next(weight for weight in self.weights if weight.name == name)


def _common(one: slice, other: slice) -> slice:
    """What is in both; where nothing is, an empty one within the other."""
    start = min(max(one.start, other.start), other.stop)
    return slice(start, max(min(one.stop, other.stop), start))


def _within(place: slice, outer: slice) -> slice:
    """The same, counted from the start of what it lies in."""
    return slice(place.start - outer.start, place.stop - outer.start)
