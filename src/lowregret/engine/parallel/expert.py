"""Expert parallelism: each rank computes its own rows, and holds its own part of the experts of every mixture.

A router's pairs of token and expert go to the rank that holds the expert, are computed there with those that the others
send, and come back (GShard, arXiv 2006.16668). So what is not an expert is computed once, as with ranks that deal rows;
a sum over ranks that compute the same rows would need no exchange of pairs, but every rank would compute all attention.

What each rank sends in a pass of t tokens of which each passes through k experts, a layer: t · k of its pairs, of which
(ranks − 1) / ranks go to others when experts are evenly used. A pair is hidden + 2 numbers (its weight and its expert)
on the way there and hidden on the way back; backward, hidden there, and hidden + 1 back. Before it, the ranks tell each
other how many: ranks · policies whole numbers.

Factors of the experts are cut with them. What all experts of a layer share (`shared-outer`) is whole on each rank, its
gradient a partial sum, as that of every factor elsewhere is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, final

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from lowregret.engine.parallel.cuts import Cut
from lowregret.engine.parallel.mesh import Axis
from lowregret.errors import SpecError
from lowregret.lora.routing import ComputePairs
from lowregret.models.experts import fused_experts


@torch.no_grad()
def cut_experts(model: PreTrainedModel, axis: Axis) -> tuple[dict[str, Cut], ExpertExchange | None]:
    """Leave of each module of experts this rank's, in place; types are to be final. Nothing without expert ranks.

    Returns how they are cut, by module, and what carries pairs between the ranks. SpecError for a base without experts
    whose layout is known, and for more ranks than divide them.
    """
    if axis.count == 1:
        return {}, None
    found: dict[str, Any] = dict(fused_experts(model))
    if not found:
        raise SpecError(f"{type(model).__name__} has no experts whose layout is known. Leave expert out.")
    exchange = ExpertExchange(axis)
    cuts: dict[str, Cut] = {}
    for name, module in found.items():
        total = module.down_proj.shape[0]
        if total % axis.count:
            works = [str(number) for number in range(1, total + 1) if total % number == 0]
            raise SpecError(
                f"{type(model).__name__}: {axis.count} expert ranks do not divide the {total} experts of {name}. "
                f"Ask for expert={' or '.join(works)}."
            )
        cuts[name] = Cut(axis, -3, total)
        for key, parameter in list(module.named_parameters(recurse=False)):
            own = parameter.detach().narrow(0, cuts[name].start, cuts[name].size).clone()
            setattr(module, key, nn.Parameter(own, requires_grad=False))
        if hasattr(module, "num_experts"):
            module.num_experts = cuts[name].size
    return cuts, exchange


def connect_experts(model: PreTrainedModel, cuts: Mapping[str, Cut], exchange: ExpertExchange) -> None:
    """Let ranks compute each other's pairs, by experts that `cut_experts` has cut."""
    for name, cut in cuts.items():
        module: Any = model.get_submodule(name)
        module.forward = partial(_exchanged, module, exchange, cut.size)


def _exchanged(
    module: Any, exchange: ExpertExchange, here: int, hidden: Tensor, chosen: Tensor, weights: Tensor
) -> Tensor:
    """What a base's own experts make of all tokens, of which each rank computes the pairs of its own."""

    def compute(x: Tensor, chosen: Tensor, weights: Tensor, sizes: Sequence[int]) -> Tensor:
        found: Tensor = type(module).forward(module, x, chosen, weights)
        return found

    x = hidden.reshape(-1, hidden.shape[-1])
    return exchange(x, chosen, weights, [len(x)], here, compute).view(hidden.shape)


@final
class ExpertExchange:
    """Pairs of token and expert go to the rank that holds the expert, and what it makes of them comes back."""

    def __init__(self, axis: Axis) -> None:
        self._axis = axis

    def __call__(
        self,
        x: Float[Tensor, "tokens d"],
        chosen: Int64[Tensor, "tokens k"],
        weights: Float[Tensor, "tokens k"],
        sizes: Sequence[int],
        here: int,
        compute: ComputePairs,
    ) -> Float[Tensor, "tokens d"]:
        """Σ over a token's experts of what `compute` makes of its pairs, on the rank of each. Every rank must call.

        `sizes`: tokens of each run of x, as many runs on every rank; `here`: experts that each rank has.
        """
        count, runs, k = self._axis.count, len(sizes), chosen.shape[1]
        device = x.device
        run = torch.repeat_interleave(torch.arange(runs), torch.tensor(sizes)).to(device)
        group = (chosen // here * runs + run[:, None]).flatten()
        order = torch.argsort(group, stable=True)
        sent = torch.zeros(count * runs, dtype=torch.int64, device=device).scatter_add_(
            0, group, torch.ones_like(group)
        )
        got = torch.empty_like(sent)
        dist.all_to_all_single(got, sent, group=self._axis.group)
        leaving, coming = (numbers.view(count, runs).sum(1).tolist() for numbers in (sent, got))
        there, back = ((leaving, coming, self._axis), (coming, leaving, self._axis))
        pairs = _swap(x.index_select(0, order // k), *there)
        shares = _swap(weights.flatten()[order, None], *there)
        experts = _swap((chosen % here).flatten()[order, None], *there)
        # They came rank by rank, and run by run of each: all of a run together, as adapters take them.
        lies = torch.repeat_interleave(torch.arange(runs, device=device).repeat(count), got)
        by_run = torch.argsort(lies, stable=True)
        members = got.view(count, runs).sum(0).tolist()
        made = pairs
        if len(pairs):
            made = compute(pairs[by_run], experts[by_run], shares[by_run], members)[_inverse(by_run)]
        returned = _swap(made, *back)
        return returned.index_select(0, _inverse(order)).view(*chosen.shape, -1).sum(1)


def _inverse(order: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    found = torch.empty_like(order)
    found[order] = torch.arange(len(order), device=order.device)
    return found


def _swap(x: Tensor, leaving: list[int], coming: list[int], axis: Axis) -> Tensor:
    """So many rows go to each rank, and so many come from each, in order. Gradients go the other way."""
    swapped: Tensor = _Swap.apply(x, leaving, coming, axis)  # type: ignore[no-untyped-call]
    return swapped


class _Swap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, leaving: list[int], coming: list[int], axis: Axis) -> Tensor:
        ctx.sizes, ctx.axis = (leaving, coming), axis
        return _sent(x, leaving, coming, axis)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        leaving, coming = ctx.sizes
        return _sent(d, coming, leaving, ctx.axis), None, None, None


def _sent(x: Tensor, leaving: list[int], coming: list[int], axis: Axis) -> Tensor:
    found = x.new_empty(sum(coming), *x.shape[1:])
    dist.all_to_all_single(found, x.contiguous(), coming, leaving, group=axis.group)
    return found
