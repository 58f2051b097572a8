"""The experts of a layer with any number of LoRAs on their matrices, each applied to its own tokens of the pass.

A router gives each token to a few experts. The pairs of token and expert are sorted by expert, and within an expert by
policy; so the base's product of all policies' tokens is one product for each expert, and a LoRA's is one for each
expert and policy, on the tokens that were sent there and no others. What a shared factor multiplies is a token's, not a
pair's, and is taken once for each token.

Nothing of the size of the experts' weights is ever made: the backward pass keeps the tokens, what lies between gate and
down, and x Aᵀ; gradients of A and B are added straight to their bank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lowregret.errors import TargetError
from lowregret.lora.bank import Bank
from lowregret.lora.factors import Factors, Owners
from lowregret.lora.linear import Routing
from lowregret.lora.segments import Segments
from lowregret.models.experts import columns, inward, roles


@dataclass(frozen=True)
class Pairs:
    """The pairs of token and expert of one layer in one pass, sorted by expert and policy."""

    order: Int64[Tensor, " pairs"]
    """token · k + choice of each sorted pair."""
    back: Int64[Tensor, " pairs"]
    """Its inverse."""
    token: Int64[Tensor, " pairs"]
    expert: Int64[Tensor, " pairs"]
    chosen: int
    """Experts of a token: k."""
    by_expert: Segments
    by_owner: Segments
    """Groups of (expert, owner), in this order."""

    @classmethod
    def of(cls, chosen: Int64[Tensor, "tokens k"], experts: int, owners: Owners) -> Pairs:
        """Sort a router's choices."""
        k, runs = chosen.shape[1], len(owners.sizes)
        group = (chosen * runs + owners.of_token(chosen.device)[:, None]).flatten()
        ordered, order = torch.sort(group, stable=True)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        counts = torch.zeros(experts * runs, dtype=torch.int64, device=order.device)
        counts.scatter_add_(0, group, torch.ones_like(group))
        each = Segments.of(counts)
        whole = each if runs == 1 else Segments.of(counts.view(experts, runs).sum(1))
        return cls(order, back, order // k, ordered // runs, k, whole, each)

    def spread(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "pairs d"]:
        """Each token's numbers to its pairs."""
        return x.index_select(0, self.token)

    def gathered(self, x: Float[Tensor, "pairs d"]) -> Float[Tensor, "tokens d"]:
        """The sum of each token's pairs; in an order that is always the same, unlike `index_add_`."""
        return x.index_select(0, self.back).view(-1, self.chosen, x.shape[1]).sum(1)


class LoRAExperts(nn.Module):
    """What the base's experts make of tokens, plus each policy's updates on that policy's tokens."""

    def __init__(self, name: str, base: nn.Module, routing: Routing) -> None:
        super().__init__()
        self.name = name
        self.base = base
        self.routing = routing
        self.banks: list[Bank] = []
        self.traffic: dict[str, Int64[Tensor, "two experts"]] = {}
        """Of each policy trained here, by expert: pairs that went there, and those whose output had a gradient."""

    def forward(
        self,
        hidden: Float[Tensor, "*batch d"],
        chosen: Int64[Tensor, "tokens k"],
        weights: Float[Tensor, "tokens k"],
    ) -> Float[Tensor, "*batch d"]:
        """Tokens of the current pass, in its order, with the experts chosen for them and what these weigh."""
        base: Any = self.base
        x = hidden.reshape(-1, hidden.shape[-1])
        parts = [part for part in self.routing.tokens if part.bank in self.banks]
        if not parts:
            plain: Tensor = base(hidden, chosen, weights)
            return plain
        if len(x) != parts[0].total or chosen.shape != weights.shape or len(chosen) != len(x):
            raise TargetError(
                f"{self.name} gets {len(x)} tokens and choices of shape {tuple(chosen.shape)} in a pass of "
                f"{parts[0].total}, so whose they are is not known. Use the target `attention`, or `full`."
            )
        owners = Owners.of(parts)
        pairs = Pairs.of(chosen, base.down_proj.shape[0], owners)
        weight, bias = inward(base)
        enabled = torch.is_autocast_enabled(x.device.type)
        dtype = torch.get_autocast_dtype(x.device.type) if enabled else weight.dtype
        call = _Call(self, owners, pairs)
        anchor = self.routing.anchor
        y = _Inward.apply(x.to(dtype), anchor, weight, bias, call)  # type: ignore[no-untyped-call]
        y = base._apply_gate(y) if base.has_gate else base.act_fn(y)
        down = base.down_proj.transpose(1, 2) if base.is_transposed else base.down_proj
        out: Tensor = _Outward.apply(  # type: ignore[no-untyped-call]
            y.to(dtype), weights, anchor, down, base.down_proj_bias if base.has_bias else None, call
        )
        return out.to(hidden.dtype).view(hidden.shape)

    def count(self, owners: Owners, pairs: Pairs, reached: Tensor) -> None:
        """Add the pairs of a backward pass to each policy's traffic; `reached` [tokens] says which had a gradient."""
        experts, runs = pairs.by_expert.counts.shape[0], len(owners.sizes)
        alive = torch.zeros_like(pairs.by_owner.counts)
        group = pairs.expert * runs + owners.of_token(reached.device)[pairs.token]
        alive.scatter_add_(0, group, reached[pairs.token].to(alive.dtype))
        both = torch.stack([pairs.by_owner.counts, alive]).view(2, experts, runs)
        for run, name in owners.names():
            known = self.traffic.get(name)
            self.traffic[name] = both[:, :, run].clone() if known is None else known + both[:, :, run]


@dataclass(frozen=True)
class _Call:
    """What both products of one call share."""

    experts: LoRAExperts
    owners: Owners
    pairs: Pairs

    def factors(self, matrices: Sequence[str], dtype: torch.dtype) -> list[Factors]:
        """Those of the matrices that any policy of the pass adapts."""
        names = [f"{self.experts.name}.{role}" for role in matrices]
        count = self.pairs.by_expert.counts.shape[0]
        return [self.owners.factors(name, count, dtype) for name in names if self.owners.adapt(name)]


class _Inward(torch.autograd.Function):
    """x Wᵀ + bias + scale · x Aᵀ Bᵀ of gate and up, pair by pair.

    Shapes: x [tokens, d], W [experts, d_out, d] with gate and up as the base lays them, the result [pairs, d_out].
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, weight: Tensor, bias: Tensor | None, call: _Call) -> Tensor:
        pairs, base = call.pairs, call.experts.base
        rows = pairs.spread(x)
        y = pairs.by_expert.times(rows, weight.to(x.dtype).transpose(1, 2))
        if bias is not None:
            y += bias.to(x.dtype)[pairs.expert]
        low_rank = []
        for own in call.factors(roles(base)[:-1], x.dtype):
            u = own.reduced(pairs, x, rows)
            own.expand(pairs, y[:, columns(base, own.role, y.shape[1])], u)
            low_rank.append(u)
        ctx.save_for_backward(x, weight, *low_rank)
        ctx.call = call
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *low_rank = ctx.saved_tensors
        call: _Call = ctx.call
        pairs, base = call.pairs, call.experts.base
        dy = dy.contiguous()
        rows = pairs.spread(x)
        needed = ctx.needs_input_grad[0]
        drows = pairs.by_expert.times(dy, weight.to(dy.dtype)) if needed else None
        of_tokens: list[Tensor] = []
        for own, u in zip(call.factors(roles(base)[:-1], dy.dtype), low_rank, strict=True):
            part = dy[:, columns(base, own.role, dy.shape[1])]
            du = own.expanded_gradient(pairs, part, u)
            of_tokens += own.reduced_gradient(pairs, du, x, rows, drows)
        if drows is None:
            return None, None, None, None, None
        dx = pairs.gathered(drows)
        for more in of_tokens:
            dx += more
        return dx, None, None, None, None


class _Outward(torch.autograd.Function):
    """The sum over a token's experts of weight · (h Wᵀ + bias + scale · h Aᵀ Bᵀ): down.

    Shapes: h [pairs, d_in], weights [tokens, k], W [experts, d_out, d_in], the result [tokens, d_out]. What each expert
    gave is not kept for the gradient of its weight: that is (W ᵀ dy) · h as well as dy · (W h).
    """

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weights: Tensor, anchor: Tensor, weight: Tensor, bias: Tensor | None, call: _Call
    ) -> Tensor:
        pairs = call.pairs
        share = weights.flatten()[pairs.order, None]
        y = pairs.by_expert.times(h, weight.to(h.dtype).transpose(1, 2))
        if bias is not None:
            y += bias.to(h.dtype)[pairs.expert]
        low_rank, shared = [], []
        for own in call.factors(("down_proj",), h.dtype):
            u = own.reduced(pairs, None, h)
            if own.b_shared:
                shared.append((own, u * share))
            else:
                own.expand(pairs, y, u)
            low_rank.append(u)
        out = pairs.gathered(y * share)
        for own, weighted in shared:
            own.expand_shared(out, pairs.gathered(weighted))
        ctx.save_for_backward(h, weights, weight, bias, *low_rank)
        ctx.call = call
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        h, weights, weight, bias, *low_rank = ctx.saved_tensors
        call: _Call = ctx.call
        pairs = call.pairs
        call.experts.count(call.owners, pairs, dout.abs().amax(1) > 0)
        share = weights.flatten()[pairs.order, None]
        dout = dout.to(h.dtype)
        dy = pairs.spread(dout)
        dh = pairs.by_expert.times(dy, weight.to(h.dtype))  # before the share: that of the output is `share` times it
        for own, u in zip(call.factors(("down_proj",), h.dtype), low_rank, strict=True):
            weighted = (u * share).to(h.dtype)
            if own.b_shared:
                du = pairs.spread(own.shared_gradient(dout, pairs.gathered(weighted)))
            else:
                du = own.expanded_gradient(pairs, dy, weighted)
            own.add_reduced(pairs, dh, du)
            own.add_a_gradient(pairs, (du * share).to(h.dtype), h)
        dshare = None
        if ctx.needs_input_grad[1]:
            dshare = (dh * h).sum(1)
            if bias is not None:
                dshare = dshare + (dy * bias.to(dy.dtype)[pairs.expert]).sum(1)
            dshare = dshare[pairs.back].view(weights.shape).to(weights.dtype)
        return (dh * share).to(h.dtype), dshare, None, None, None, None
