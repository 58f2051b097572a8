"""LoRAs of like shape side by side in memory, so that one batched product serves them all.

A bank holds policies that adapt the same matrices with the same padded rank. Each policy is one row: every A and B of
it, flattened, one after the other. So the A of all policies on one matrix is a strided view [policies, rank, d_in] that
`bmm` takes as it is, and an optimizer step of one policy is one step of one vector.

Ranks are padded to a multiple of 4 with zeros, which no gradient reaches: a padded row of A meets a padded column of B
that is zero, and the other way round. A rank of 1 would be a matrix-vector product, slower and, with some libraries,
rounded differently from the same rows in a larger batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lowregret.models.targets import Matrix

RANK_MULTIPLE = 4


def padded_rank(rank: int) -> int:
    """The rank that is computed: the next multiple of 4."""
    return -(-rank // RANK_MULTIPLE) * RANK_MULTIPLE


class Bank:
    """Policies with the same matrices and the same padded rank."""

    def __init__(self, matrices: Sequence[Matrix], rank: int) -> None:
        self.matrices = {matrix.name: matrix for matrix in matrices}
        self.rank = padded_rank(rank)
        self.members: list[str] = []
        self.weights = torch.empty(0, 0)
        """[members, numbers of one policy]."""
        self.gradients: Tensor | None = None
        """The same shape; None until a first backward pass needs it."""
        self._place: dict[str, int] = {}
        self._size = 0
        for matrix in matrices:
            self._place[matrix.name] = self._size
            self._size += self.rank * (matrix.d_in + matrix.d_out)

    def add(self, name: str, values: Mapping[str, tuple[Tensor, Tensor]], device: torch.device) -> None:
        """A new member, from its A [rank, d_in] and B [d_out, rank] by matrix. Views taken before are stale then."""
        row = torch.zeros(1, self._size, dtype=next(iter(values.values()))[0].dtype)
        for matrix, (a, b) in values.items():
            rank = a.shape[0]
            self._a(row, matrix)[0, :rank] = a
            self._b(row, matrix)[0, :, :rank] = b
        row = row.to(device)
        if self.gradients is not None:
            self.gradients = torch.cat([self.gradients, torch.zeros_like(row)])
        self.weights = torch.cat([self.weights, row]) if self.members else row
        self.members.append(name)

    def remove(self, name: str) -> None:
        """Take a member out. Views taken before are stale then."""
        kept = [slot for slot, member in enumerate(self.members) if member != name]
        self.weights = self.weights[kept]
        self.gradients = None if self.gradients is None else self.gradients[kept]
        self.members = [self.members[slot] for slot in kept]

    def need_gradients(self) -> bool:
        """Make the gradients (zeros) unless they are there; True when they are new."""
        if self.gradients is not None:
            return False
        self.gradients = torch.zeros_like(self.weights)
        return True

    def a(self, matrix: str, slots: slice = slice(None)) -> Float[Tensor, "policies rank d_in"]:
        """A of every member on one matrix, padding included."""
        return self._a(self.weights, matrix)[slots]

    def b(self, matrix: str, slots: slice = slice(None)) -> Float[Tensor, "policies d_out rank"]:
        """B of every member on one matrix, padding included."""
        return self._b(self.weights, matrix)[slots]

    def a_gradient(self, matrix: str, slots: slice = slice(None)) -> Float[Tensor, "policies rank d_in"]:
        """Where the gradients of A add up; `need_gradients` comes first."""
        assert self.gradients is not None
        return self._a(self.gradients, matrix)[slots]

    def b_gradient(self, matrix: str, slots: slice = slice(None)) -> Float[Tensor, "policies d_out rank"]:
        """Where the gradients of B add up; `need_gradients` comes first."""
        assert self.gradients is not None
        return self._b(self.gradients, matrix)[slots]

    def views(self, flat: Float[Tensor, " numbers"], rank: int) -> dict[str, Tensor]:
        """`<matrix>.lora_A` [rank, d_in] and `<matrix>.lora_B` [d_out, rank] in one policy's vector, unpadded."""
        found = {}
        for matrix in self.matrices:
            found[f"{matrix}.lora_A"] = self._a(flat[None], matrix)[0, :rank]
            found[f"{matrix}.lora_B"] = self._b(flat[None], matrix)[0, :, :rank]
        return found

    def _a(self, rows: Tensor, matrix: str) -> Tensor:
        shape = self.matrices[matrix]
        start = self._place[matrix]
        return rows[:, start : start + self.rank * shape.d_in].view(-1, self.rank, shape.d_in)

    def _b(self, rows: Tensor, matrix: str) -> Tensor:
        shape = self.matrices[matrix]
        start = self._place[matrix] + self.rank * shape.d_in
        return rows[:, start : start + self.rank * shape.d_out].view(-1, shape.d_out, self.rank)
