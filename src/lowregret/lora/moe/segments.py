"""Products of rows that lie group by group, each group with a matrix of its own."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """Where the groups of rows lie.

    On a CPU products are a loop of `mm` over the groups that have rows: as fast as `grouped_mm` there, which wants
    widths of multiples of 16 bytes besides. Elsewhere they are one `grouped_mm`, and the host never reads a size.
    """

    counts: Int64[Tensor, " groups"]
    """Rows of each group."""
    bounds: tuple[tuple[int, int, int], ...] | None
    """(group, first row, end) of those that have rows; None where the host does not know."""

    @classmethod
    def of(cls, counts: Int64[Tensor, " groups"]) -> Segments:
        """Groups of these sizes, one after the other."""
        if counts.device.type != "cpu":
            return cls(counts, None)
        sizes: list[int] = counts.tolist()
        ends = accumulate(sizes)
        return cls(
            counts,
            tuple((group, end - size, end) for group, (size, end) in enumerate(zip(sizes, ends, strict=True)) if size),
        )

    def subset(self, groups: slice, start: int) -> Segments:
        """Some neighbouring groups alone, the first of which begins at row `start`. For a CPU."""
        bounds = self.bounds or ()
        inside = (bound for bound in bounds if groups.start <= bound[0] < groups.stop)
        return Segments(
            self.counts[groups],
            tuple((group - groups.start, first - start, end - start) for group, first, end in inside),
        )

    def times(self, x: Float[Tensor, "rows k"], factors: Float[Tensor, "groups k m"]) -> Float[Tensor, "rows m"]:
        """Each group's rows times its own matrix."""
        if self.bounds is None:
            return torch.nn.functional.grouped_mm(_dense(x), factors, offs=self._ends)
        out = x.new_empty(x.shape[0], factors.shape[2])
        for group, start, end in self.bounds:
            torch.mm(x[start:end], factors[group], out=out[start:end])
        return out

    def add_times(
        self, total: Float[Tensor, "rows m"], x: Float[Tensor, "rows k"], factors: Float[Tensor, "groups k m"]
    ) -> None:
        """total += `times`, in place."""
        if self.bounds is None:
            total += self.times(x, factors)
            return
        for group, start, end in self.bounds:
            total[start:end].addmm_(x[start:end], factors[group])

    def outer(self, left: Float[Tensor, "rows k"], right: Float[Tensor, "rows m"]) -> Float[Tensor, "groups k m"]:
        """leftᵀ right of each group; zero for one without rows."""
        if self.bounds is None:
            found = torch.nn.functional.grouped_mm(_dense(left).T, _dense(right), offs=self._ends)
            return found.masked_fill_((self.counts == 0)[:, None, None], 0.0)
        out = left.new_zeros(len(self.counts), left.shape[1], right.shape[1])
        for group, start, end in self.bounds:
            torch.mm(left[start:end].T, right[start:end], out=out[group])
        return out

    @property
    def _ends(self) -> Tensor:
        return self.counts.cumsum(0, dtype=torch.int32)


def _dense(x: Tensor) -> Tensor:
    """Columns next to each other, as `grouped_mm` wants them: those of interleaved gates are not."""
    return x if x.stride(-1) == 1 else x.contiguous()
