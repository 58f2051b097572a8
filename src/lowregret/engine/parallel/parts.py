"""How what trains on a base that is cut lies over ranks, and what is exchanged of it once a step.

Of a columnwise matrix B is cut by rows of d_out, and A is whole; of a rowwise one A is cut by columns of d_in, and B is
whole. Of experts A and B are cut with them, expert by expert. What is cut gets its whole gradient in the pass; of what
is whole each rank's gradient is a partial sum, and all of these are added up before a step. A pass therefore exchanges
for adapters nothing but what the base needs anyway. Of a base that trains itself, what is cut is told when it is cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lowregret.engine.parallel.cuts import Cut
from lowregret.engine.parallel.mesh import ALONE, Axis, Ranks
from lowregret.lora.bank import AdapterLayout
from lowregret.lora.init import Start
from lowregret.models.targets import Matrix

Side = Literal["columnwise", "rowwise"]
"""By outputs, or by inputs."""
_CUT = {"columnwise": {"lora_B": -2, "lora_magnitude": -1}, "rowwise": {"lora_A": -1}}
"""Dimensions of the factors of a matrix that are cut with it."""


@dataclass(frozen=True)
class BaseCuts:
    """Which matrices of a base are cut, and how; of a process alone none is."""

    ranks: Ranks = ALONE
    sides: Mapping[str, Side] = field(default_factory=dict)
    """By matrix. Every other is whole on every rank."""
    vocabulary: Cut | None = None
    """Of the unembedding's outputs; None when all are here."""
    weights: Mapping[str, Cut] = field(default_factory=dict)
    """By the base's own weight: how it is cut."""
    inside: frozenset[str] = frozenset()
    """Modules that are whole, and see a part of their inputs: the gradients of their weights are partial sums."""
    experts: Mapping[str, Cut] = field(default_factory=dict)
    """By the module of experts, the first dimension of its tensors; none when all are here."""

    @property
    def any(self) -> bool:
        """Whether this rank lacks anything of the base."""
        return bool(self.weights)

    def total(self, module: str, here: int) -> int:
        """Experts of a module, of which there are so many here."""
        return self.experts[module].whole if module in self.experts else here

    def here(self, matrices: Sequence[Matrix]) -> list[Matrix]:
        """The matrices of a base that was cut, with what is known of experts that are elsewhere."""
        return [self._here(matrix) for matrix in matrices]

    def _here(self, matrix: Matrix) -> Matrix:
        cut = self.experts.get(matrix.name.rpartition(".")[0])
        if cut is None or matrix.experts is None:
            return matrix
        return replace(matrix, experts=replace(matrix.experts, elsewhere=cut.whole - cut.size))

    @property
    def rowwise(self) -> list[str]:
        """Matrices of whose inputs each rank has a part."""
        return [name for name, side in self.sides.items() if side == "rowwise"]

    def whole(self, matrix: Matrix) -> Matrix:
        """The matrix as it is on a process alone, of one as it is here."""
        side = self.sides.get(matrix.name)
        if matrix.experts is not None:
            return replace(matrix, experts=replace(matrix.experts, count=matrix.experts.total, elsewhere=0))
        if side is None:
            return matrix
        if side == "rowwise":
            return replace(matrix, d_in=matrix.d_in * self.ranks.tensor.count)
        if matrix.group == "unembedding" and self.vocabulary is not None:
            return replace(matrix, d_out=self.vocabulary.whole)
        return replace(matrix, d_out=matrix.d_out * self.ranks.tensor.count)

    def joined(self, matrix: Matrix, weight: Float[Tensor, "rows columns"]) -> Float[Tensor, "d_out d_in"]:
        """The whole weight, of this rank's; every rank must ask."""
        side, whole = self.sides.get(matrix.name), self.whole(matrix)
        if side is None:
            return weight
        cut = Cut(self.ranks.tensor, -2, whole.d_out) if side == "columnwise" else self._columns(whole)
        return cut.joined(weight)

    def inputs(self, matrices: Sequence[Matrix]) -> dict[str, tuple[int, int]]:
        """Of those that see a part of their inputs: how many there are, and which is the first of this rank's."""
        cuts = {matrix.name: self._columns(self.whole(matrix)) for matrix in matrices if matrix.name in self.rowwise}
        return {name: (cut.whole, cut.start) for name, cut in cuts.items()}

    def _columns(self, whole: Matrix) -> Cut:
        return Cut(self.ranks.tensor, -1, whole.d_in)

    def base(self, *, in_parts: bool = False) -> WeightParts:
        """How the base's own weights lie over the ranks; `in_parts`: FSDP2 has cut them once more."""
        return WeightParts(self.ranks, self.weights, self.inside, in_parts)

    def all_traffic(self, module: str, counts: Int64[Tensor, "two some"]) -> Int64[Tensor, "two experts"]:
        """What went to each expert of a module, of all ranks; every rank must ask."""
        cut, total = self.experts.get(module), counts.clone()
        if cut is None or total.shape[1] == cut.whole:  # of this rank's rows, not of its experts
            self.ranks.data.add(total)
            return total
        self.ranks.replicas.add(total)
        return replace(cut, dim=-1).joined(total)

    def own_traffic(self, counts: Mapping[str, Int64[Tensor, "two experts"]]) -> dict[str, Int64[Tensor, "two here"]]:
        """What went to the experts of this rank, of what went to all of them."""
        cuts = {name: self.experts.get(name) for name in counts}
        return {
            name: counts[name] if cut is None else replace(cut, dim=-1).own(counts[name]) for name, cut in cuts.items()
        }

    def adapter(self, layout: AdapterLayout) -> WeightParts:
        """How an adapter of this layout lies over the ranks."""
        found: dict[str, Cut] = {}
        for matrix in layout.matrices:
            if matrix.experts is not None and (experts := self.experts.get(matrix.name.rpartition(".")[0])):
                shared = "lora_A" if matrix.experts.hidden == "in" else "lora_B"
                each = [kind for kind in ("lora_A", "lora_B") if not layout.shared or kind != shared]
                found |= {f"{matrix.name}.{kind}": experts for kind in each}
            side, whole = self.sides.get(matrix.name), self.whole(matrix)
            if side is not None:
                length = whole.d_out if side == "columnwise" else whole.d_in
                found |= {
                    f"{matrix.name}.{kind}": Cut(self.ranks.tensor, dim, length) for kind, dim in _CUT[side].items()
                }
        return WeightParts(self.ranks, found, frozenset(self.sides))


@dataclass(frozen=True)
class WeightParts:
    """How one policy's weights lie over ranks."""

    ranks: Ranks = ALONE
    cuts: Mapping[str, Cut] = field(default_factory=dict)
    """By weight. Every other is whole on every rank."""
    matrices: frozenset[str] = frozenset()
    """Those that are cut: of what is whole on them each rank has a partial sum of the gradient."""
    in_parts: bool = False
    """Whether FSDP2 has cut all of them once more, and adds up gradients over the ranks among which it did."""

    def own(self, name: str, tensor: Tensor) -> Tensor:
        """This rank's part of a weight, or of a moment; what does not have its length is left as it is."""
        cut = self.cuts.get(name)
        if cut is None or tensor.ndim < -cut.dim or tensor.shape[cut.dim] != cut.whole:
            return tensor
        return cut.own(tensor)

    def own_start(self, matrix: str, start: Start) -> Start:
        """This rank's parts of A and B."""
        a, b = start
        return self.own(f"{matrix}.lora_A", a), self.own(f"{matrix}.lora_B", b)

    def joined(self, name: str, tensor: Tensor) -> Tensor:
        """The whole of a weight, or of a moment, of this rank's part; every rank must ask. A single number stays."""
        cut = self.cuts.get(name)
        return tensor if cut is None or tensor.ndim == 0 else cut.joined(tensor)

    def shape(self, name: str, tensor: Tensor) -> tuple[int, ...]:
        """Of the whole of a weight, or of a moment."""
        cut, found = self.cuts.get(name), list(tensor.shape)
        if cut is not None and found:
            found[cut.dim] = cut.whole
        return tuple(found)

    def numbers(self, name: str, tensor: Tensor) -> int:
        """Those of the whole weight."""
        cut = self.cuts.get(name)
        return tensor.numel() if cut is None else tensor.numel() // max(cut.size, 1) * cut.whole

    def add_all(self, tensor: Tensor) -> None:
        """Put in a tensor's place its sum over all ranks."""
        self.ranks.everybody.add(tensor)

    def add_gradients(self, named: Mapping[str, Tensor], flat: Float[Tensor, " numbers"] | None = None) -> None:
        """Add up what the passes of all ranks have left, in place; by weight, views of `flat` where there is one.

        One sum over the ranks that compute other rows, of experts those that have the same ones; and one over those
        that hold other parts of the matrices, of what is whole. On a matrix that is not cut these compute the same,
        and one of them is taken. What FSDP2 has added up already is added up over the other ranks alone.
        """
        of_experts = self._cut(named, self.ranks.expert)
        if self.in_parts:
            _add(self.ranks.expert, [gradient for name, gradient in named.items() if name not in of_experts])
        elif of_experts or flat is None:
            _add(self.ranks.replicas, list(of_experts.values()))
            _add(self.ranks.data, [gradient for name, gradient in named.items() if name not in of_experts])
        else:
            self.ranks.data.add(flat)
        if self.ranks.tensor.count == 1:
            return
        cut = self._cut(named, self.ranks.tensor)
        whole = {name: gradient for name, gradient in named.items() if name not in cut}
        for name, gradient in whole.items():
            if self.ranks.tensor.rank and name.rpartition(".")[0] not in self.matrices:
                gradient.zero_()
        _add(self.ranks.tensor, list(whole.values()))

    def norm(self, named: Mapping[str, Tensor]) -> Float[Tensor, ""] | None:
        """The norm of all gradients, of which these are this rank's: squares of what is cut add up over the parts, of
        what is whole they count once. None when nothing is cut."""
        if not self.cuts:
            return None
        whole = [gradient for name, gradient in named.items() if name not in self.cuts]
        squares = [_squares(whole)] if whole else []
        for axis in (self.ranks.tensor, self.ranks.expert):
            if cut := self._cut(named, axis):
                squares.append(_squares(list(cut.values())))
                axis.add(squares[-1])
        total = torch.stack(squares).sum()
        if self.in_parts:
            self.ranks.shards.add(total)
        return total.sqrt()

    def _cut(self, named: Mapping[str, Tensor], axis: Axis) -> dict[str, Tensor]:
        """Those of some weights that are cut over an axis."""
        return {name: value for name, value in named.items() if name in self.cuts and self.cuts[name].axis is axis}


def _squares(tensors: Sequence[Tensor]) -> Float[Tensor, ""]:
    return torch.nn.utils.get_total_norm(tensors).square()


def _add(axis: Axis, tensors: Sequence[Tensor]) -> None:
    """The sum of each over the ranks of an axis, in its place, by one exchange."""
    if not tensors or axis.count == 1:
        return
    total = torch.cat([tensor.flatten() for tensor in tensors])
    axis.add(total)
    for tensor, own in zip(tensors, total.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(own.view_as(tensor))
