"""LoRAs of like shape side by side in memory, so that one batched product serves them all.

A bank holds policies that adapt the same matrices with the same padded rank. Each policy is one row: every A and B of
it, flattened, one after the other. So the A of all policies on one matrix is a strided view [policies, rank, d_in] that
`bmm` takes as it is, and an optimizer step of one policy is one step of one vector. A bank is copied when a policy
joins or leaves it, so where copies take long it is kept small, and more policies of its layout have another beside it;
or it takes memory ahead for those that are to come.

Ranks are padded to a multiple of 4 with zeros, which no gradient reaches: a padded row of A meets a padded column of B
that is zero, and the other way round. A rank of 1 would be a matrix-vector product, slower and, with some libraries,
rounded differently from the same rows in a larger batch.

The policies of a residual bank start as a part of W (PiSSA, OLoRA), and what they add is s · (B A − B₀ A₀): W stays as
it is, for all. As B A − B₀ A₀ = B (A − A₀) + (B − B₀) A₀, that is a product of factors of twice the rank: zero to the
bit at the start, and no difference of large products later. Those of a bank with `dora` have a magnitude for each row
of W beside A and B.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lowregret.models.targets import Matrix
from lowregret.spec import LoRA
from lowregret.spec.conventions import expert_rank

RANK_MULTIPLE = 4


def padded_rank(rank: int) -> int:
    """The rank that is computed: the next multiple of 4."""
    return -(-rank // RANK_MULTIPLE) * RANK_MULTIPLE


def rank_on(method: LoRA, matrix: Matrix) -> int:
    """The rank of a method on one matrix: on those of experts, what its convention says."""
    if matrix.experts is None:
        return method.rank
    return expert_rank(method.rank, method.convention, active=matrix.experts.active, total=matrix.experts.total)


@dataclass(frozen=True)
class AdapterLayout:
    """What one bank holds: policies of one layout can be neighbours."""

    matrices: tuple[Matrix, ...]
    rank: int
    """Padded."""
    residual: bool = False
    """Whether their first product is taken off again."""
    dora: bool = False
    """Whether they have magnitudes."""

    expert_rank: int = 0
    """That of each expert's matrices, padded; 0 without them."""
    shared: bool = False
    """Whether all experts of a layer have one factor in common: that on the side of the hidden states."""

    @classmethod
    def of(cls, method: LoRA, matrices: Sequence[Matrix]) -> AdapterLayout:
        """The layout of a method's policies on these matrices."""
        of_experts = [rank_on(method, matrix) for matrix in matrices if matrix.experts]
        return cls(
            tuple(matrices),
            padded_rank(method.rank),
            method.residual,
            method.dora,
            padded_rank(of_experts[0]) if of_experts else 0,
            bool(of_experts) and method.convention == "shared-outer",
        )

    @property
    def numbers(self) -> int:
        """Of A and B of one policy, padding included."""
        return sum(math.prod(shape) for matrix in self.matrices for shape in self.shapes(matrix))

    def shapes(self, matrix: Matrix) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Those of A and B on one matrix, ranks padded; of experts, with one more dimension for whose it is."""
        if matrix.experts is None:
            return (self.rank, matrix.d_in), (matrix.d_out, self.rank)
        each, inward = matrix.experts.count, matrix.experts.hidden == "in"
        a_copies = 1 if self.shared and inward else each
        b_copies = 1 if self.shared and not inward else each
        return (a_copies, self.expert_rank, matrix.d_in), (b_copies, matrix.d_out, self.expert_rank)


@dataclass(frozen=True)
class WeightSlice:
    """Where one weight lies in the numbers of one policy."""

    name: str
    """`<matrix>.lora_A`, `<matrix>.lora_B` or `<matrix>.lora_magnitude`."""
    matrix: Matrix
    place: slice
    shape: tuple[int, ...]
    """[…, rank, d_in], […, d_out, rank] or [d_out], padding included."""

    def view(self, numbers: Float[Tensor, " piece"], method: LoRA) -> Tensor:
        """A method's weight in the numbers of this piece, without padding."""
        whole, rank = numbers.view(self.shape), rank_on(method, self.matrix)
        if self.name.endswith(".lora_A"):
            return whole[..., :rank, :]
        return whole[..., :rank] if self.name.endswith(".lora_B") else whole


class AdapterBank:
    """Policies of one layout."""

    def __init__(self, layout: AdapterLayout, ahead: int | None = None) -> None:
        """`ahead`: bytes to take at once for the weights of members to come, who then join without a copy of the
        others. What no member has written is not touched, and is no memory in use where pages are given by touch.
        """
        self.layout = layout
        self._ahead = ahead
        self._taken: Tensor | None = None
        """[members that have room, numbers of one policy]: where the weights lie, where they were taken ahead."""
        self.matrices = {matrix.name: matrix for matrix in layout.matrices}
        self.members: list[str] = []
        self.weights = torch.empty(0, 0)
        """[members, numbers of one policy]."""
        self.gradients: Tensor | None = None
        """The same shape; None until a first backward pass needs it."""
        self.initial: Tensor | None = None
        """The weights at the start, the same shape; None unless the layout is residual."""
        self._cast: tuple[int, Tensor] | None = None
        """The weights of some members in another type, and the first of them: see `cast_once`."""
        self._found: dict[str, Tensor] = {}
        """Views of the weights as they lie now, by name: see `_of_weights`."""
        self.origins: dict[str, tuple[str, int, float]] = {}
        """Init, rank and scale of members that found their start in the base as it is now."""
        self.slices: list[WeightSlice] = []
        """In the order in which they lie."""
        self._size = 0
        for matrix in layout.matrices:
            a, b = layout.shapes(matrix)
            self._put("lora_A", matrix, a)
            self._put("lora_B", matrix, b)
            if layout.dora:
                self._put("lora_magnitude", matrix, (matrix.d_out,))
        self._by_name = {piece.name: piece for piece in self.slices}

    def _put(self, kind: str, matrix: Matrix, shape: tuple[int, ...]) -> None:
        start = self._size
        self._size += math.prod(shape)
        self.slices.append(WeightSlice(f"{matrix.name}.{kind}", matrix, slice(start, self._size), shape))

    def has_room(self, most: int | None) -> bool:
        """Whether its weights take at most so many bytes with one member more; None is no bound.

        An empty bank has room for any; a residual one for all, whose starts are found in the base once.
        """
        if most is None or not self.members or self.layout.residual:
            return True
        return self.weights.nbytes // len(self.members) * (len(self.members) + 1) <= most

    def known_start(self, method: LoRA) -> dict[str, tuple[Tensor, Tensor]] | None:
        """A and B by matrix of a member that found them in the base for a method alike; None when there is none.

        To take every matrix of a base apart again takes seconds for a small one, and an hour for a large one.
        """
        for name, origin in self.origins.items():
            if self.initial is not None and origin == _origin(method):
                found = self.views(self.initial[self.members.index(name)], method)
                return {matrix: (found[f"{matrix}.lora_A"], found[f"{matrix}.lora_B"]) for matrix in self.matrices}
        return None

    def add(
        self, name: str, values: Mapping[str, tuple[Tensor, Tensor]], device: torch.device, method: LoRA | None = None
    ) -> None:
        """A new member, from its A […, rank, d_in] and B […, d_out, rank] by matrix. Views taken before are stale then.

        Magnitudes start as zeros: they need the weights to be in place. `method` is what the values were found by.
        """
        row = torch.zeros(1, self._size, dtype=next(iter(values.values()))[0].dtype)
        for matrix, (a, b) in values.items():
            rank = a.shape[-2]
            self._a(row, matrix)[0, ..., :rank, :] = a
            self._b(row, matrix)[0, ..., :rank] = b
        row = row.to(device)
        if self.gradients is not None:
            self.gradients = torch.cat([self.gradients, torch.zeros_like(row)])
        if self.layout.residual:
            self.initial = row.clone() if self.initial is None else torch.cat([self.initial, row])
            if method is not None:
                self.origins[name] = _origin(method)
        self.weights, self._found = self._with(row), {}
        self.members.append(name)

    def _with(self, row: Float[Tensor, "one numbers"]) -> Float[Tensor, "members numbers"]:
        count = len(self.members)
        if self._ahead is None:
            return torch.cat([self.weights, row]) if count else row
        if self._taken is None or len(self._taken) == count:
            self._taken = row.new_empty(max(self._ahead // row.nbytes, count + 1), self._size)
            if count:
                self._taken[:count] = self.weights
        self._taken[count] = row[0]
        return self._taken[: count + 1]

    def remove(self, name: str) -> None:
        """Take a member out. Views taken before are stale then."""
        kept = [slot for slot, member in enumerate(self.members) if member != name]
        self.weights, self._found, self._taken = self.weights[kept], {}, None
        self.gradients = None if self.gradients is None else self.gradients[kept]
        self.initial = None if self.initial is None else self.initial[kept]
        self.members = [self.members[slot] for slot in kept]
        self.origins.pop(name, None)

    def need_gradients(self) -> bool:
        """Make the gradients (zeros) unless they are there; True when they are new."""
        if self.gradients is not None:
            return False
        self.gradients = torch.zeros_like(self.weights)
        return True

    @contextmanager
    def cast_once(self, slots: slice, dtype: torch.dtype) -> Iterator[None]:
        """The `factors` of these members, and of no others, are asked for in this type, and no weight changes inside:
        they are views of one copy, not a copy for each matrix each time."""
        needed = self.weights.dtype is not dtype and self.initial is None
        self._cast = (slots.start, self.weights[slots].to(dtype)) if needed else None
        try:
            yield
        finally:
            self._cast = None

    def a(self, matrix: str, slots: slice = slice(None)) -> Float[Tensor, "policies *experts rank d_in"]:
        """A of every member on one matrix, padding included."""
        return self._of_weights(f"{matrix}.lora_A")[slots]

    def b(self, matrix: str, slots: slice = slice(None)) -> Float[Tensor, "policies *experts d_out rank"]:
        """B of every member on one matrix, padding included."""
        return self._of_weights(f"{matrix}.lora_B")[slots]

    def a_gradient(self, matrix: str, slots: slice = slice(None)) -> Float[Tensor, "policies *experts rank d_in"]:
        """Where the gradients of A add up; `need_gradients` comes first."""
        assert self.gradients is not None
        return self._a(self.gradients, matrix)[slots]

    def b_gradient(self, matrix: str, slots: slice = slice(None)) -> Float[Tensor, "policies *experts d_out rank"]:
        """Where the gradients of B add up; `need_gradients` comes first."""
        assert self.gradients is not None
        return self._b(self.gradients, matrix)[slots]

    def factors(
        self, matrix: str, slots: slice, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "policies *a_experts factors d_in"], Float[Tensor, "policies *b_experts d_out factors"]]:
        """A and B of what the members add to one matrix, in a type: the trained ones, or of twice the rank."""
        a, b = self.a(matrix, slots), self.b(matrix, slots)
        if (start := self.start(matrix, slots)) is not None:
            a, b = updates(a, b, *start)
        elif self._cast is not None and self._cast[1].dtype is dtype:
            first, cast = self._cast
            here = slice(slots.start - first, slots.stop - first)
            return self._a(cast, matrix)[here], self._b(cast, matrix)[here]
        return (a if a.dtype is dtype else a.to(dtype)), (b if b.dtype is dtype else b.to(dtype))

    def start(self, matrix: str, slots: slice) -> tuple[Tensor, Tensor] | None:
        """A and B of members at the start, where their product is taken off."""
        if self.initial is None:
            return None
        return self._a(self.initial, matrix)[slots], self._b(self.initial, matrix)[slots]

    def magnitudes(self, matrix: str, slots: slice = slice(None)) -> Float[Tensor, "policies d_out"]:
        """DoRA's magnitudes of every member on one matrix."""
        return self._magnitudes(self.weights, matrix)[slots]

    def magnitudes_gradient(self, matrix: str, slots: slice = slice(None)) -> Float[Tensor, "policies d_out"]:
        """Where the gradients of magnitudes add up; `need_gradients` comes first."""
        assert self.gradients is not None
        return self._magnitudes(self.gradients, matrix)[slots]

    def views(self, flat: Float[Tensor, " numbers"], method: LoRA) -> dict[str, Tensor]:
        """A method's weights by name in one policy's vector, unpadded."""
        return {piece.name: piece.view(flat[piece.place], method) for piece in self.slices}

    def _of_weights(self, name: str) -> Tensor:
        """`_in` of the weights, made once: rows that come and go in decoding ask for all of them each time."""
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = self._in(self.weights, name)
        return found

    def _a(self, rows: Tensor, matrix: str) -> Tensor:
        return self._in(rows, f"{matrix}.lora_A")

    def _b(self, rows: Tensor, matrix: str) -> Tensor:
        return self._in(rows, f"{matrix}.lora_B")

    def _magnitudes(self, rows: Tensor, matrix: str) -> Tensor:
        return self._in(rows, f"{matrix}.lora_magnitude")

    def _in(self, rows: Tensor, name: str) -> Tensor:
        piece = self._by_name[name]
        return rows[:, piece.place].view(-1, *piece.shape)


def _origin(method: LoRA) -> tuple[str, int, float]:
    return method.init, method.rank, method.scale


def updates(a: Tensor, b: Tensor, a0: Tensor, b0: Tensor) -> tuple[Tensor, Tensor]:
    """Factors [..., 2 rank, d_in] and [..., d_out, 2 rank] whose product is B A − B₀ A₀."""
    return torch.cat([a - a0, a0], dim=-2), torch.cat([b, b - b0], dim=-1)
