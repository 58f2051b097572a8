"""Tensors of which each rank of an axis holds a part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowregret.engine.parallel.mesh import Axis


@dataclass(frozen=True)
class Cut:
    """How a tensor lies over the ranks of an axis: in parts along one dimension, all of one length but for the last
    when it does not divide, as those of a DTensor."""

    axis: Axis
    dim: int
    """Counted from the last, which is −1."""
    whole: int
    """Its numbers along that dimension."""

    @property
    def start(self) -> int:
        """Where this rank's part begins."""
        return min(self.axis.rank * self.largest, self.whole)

    @property
    def size(self) -> int:
        """Numbers of this rank's part along the dimension."""
        return self._size(self.axis.rank)

    def _size(self, rank: int) -> int:
        return min(self.largest, max(self.whole - rank * self.largest, 0))

    @property
    def largest(self) -> int:
        """The same of the largest part."""
        return -(-self.whole // self.axis.count)

    def own(self, tensor: Tensor) -> Tensor:
        """This rank's part of a whole, as a view."""
        return tensor.narrow(self.dim, self.start, self.size)

    def joined(self, part: Tensor) -> Tensor:
        """The whole, for which every rank must ask at the same time."""
        dim = part.ndim + self.dim
        missing = list(part.shape)
        missing[dim] = self.largest - self.size
        filled = torch.cat([part, part.new_zeros(missing)], dim) if missing[dim] else part
        parts = self.axis.gather(filled.contiguous())
        own = [one.narrow(dim, 0, self._size(rank)) for rank, one in enumerate(parts)]
        return torch.cat(own, dim)
