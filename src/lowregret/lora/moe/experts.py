"""The experts of a layer with any number of LoRAs on their matrices, each applied to its own tokens of the pass.

A router gives each token to a few experts. The pairs of token and expert are sorted by expert, and within an expert by
policy (`dispatch.py`); so the base's product of all policies' tokens is one product for each expert, and a LoRA's is
one for each expert and policy, on the tokens that were sent there and no others. What a shared factor multiplies is a
token's, not a pair's, and is taken once for each token.

Nothing of the size of the experts' weights is ever made. Kept for the backward pass are the tokens, what gate and up
gave, and x Aᵀ: the activation is computed again, which costs less than to keep it, and the outputs are not needed.
Gradients of A and B are added straight to their bank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lowregret.errors import TargetError
from lowregret.lora.bank import AdapterBank
from lowregret.lora.moe.dispatch import ExpertBlock, ExpertDispatch
from lowregret.lora.moe.factors import ExpertFactors
from lowregret.lora.moe.rows import RowRouting
from lowregret.lora.routing import PolicyRouting
from lowregret.models.experts import columns, inward, outward, roles


class LoRAExperts(nn.Module):
    """What the base's experts make of tokens, plus each policy's updates on that policy's tokens."""

    def __init__(self, name: str, base: nn.Module, routing: PolicyRouting) -> None:
        super().__init__()
        self.name = name
        self.base = base
        self.routing = routing
        self.banks: list[AdapterBank] = []
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
        spans = [span for span in self.routing.tokens if span.bank in self.banks]
        if not spans:
            plain: Tensor = base(hidden, chosen, weights)
            return plain
        if len(x) != spans[0].total or chosen.shape != weights.shape or len(chosen) != len(x):
            raise TargetError(
                f"{self.name} gets {len(x)} tokens and choices of shape {tuple(chosen.shape)} in a pass of "
                f"{spans[0].total}, so whose they are is not known. Use the target `attention`, or `full`."
            )
        row_routing = RowRouting.of(spans)
        enabled = torch.is_autocast_enabled(x.device.type)
        dtype = torch.get_autocast_dtype(x.device.type) if enabled else base.down_proj.dtype
        exchange, here = self.routing.exchange, base.down_proj.shape[0]

        def compute(x: Tensor, chosen: Tensor, weights: Tensor, sizes: Sequence[int]) -> Tensor:
            runs = replace(row_routing, sizes=tuple(sizes))
            call = _Call(self, runs, ExpertDispatch.of(chosen, here, runs))
            found: Tensor = _Experts.apply(x, weights, self.routing.anchor, call)  # type: ignore[no-untyped-call]
            return found

        if exchange is None:
            out = compute(x.to(dtype), chosen, weights, row_routing.sizes)
        else:
            out = exchange(x.to(dtype), chosen, weights, row_routing.sizes, here, compute)
        return out.to(hidden.dtype).view(hidden.shape)

    def of_policy(self, name: str) -> Int64[Tensor, "two experts"]:
        """A policy's traffic."""
        base: Any = self.base
        nothing: Tensor = base.down_proj.new_zeros((2, base.down_proj.shape[0]), dtype=torch.int64)
        return self.traffic.get(name, nothing)

    def count(self, row_routing: RowRouting, dispatch: ExpertDispatch, reached: Tensor) -> None:
        """Add the pairs of a backward pass to each policy's traffic; `reached` [tokens] says which had a gradient."""
        experts, runs = dispatch.by_expert.counts.shape[0], len(row_routing.sizes)
        alive = torch.zeros_like(dispatch.by_run.counts)
        group = dispatch.expert * runs + row_routing.of_token(reached.device)[dispatch.token]
        alive.scatter_add_(0, group, reached[dispatch.token].to(alive.dtype))
        both = torch.stack([dispatch.by_run.counts, alive]).view(2, experts, runs)
        for run, name in row_routing.names():
            known = self.traffic.get(name)
            self.traffic[name] = both[:, :, run].clone() if known is None else known + both[:, :, run]


@dataclass(frozen=True)
class _Call:
    """What both passes of one call know."""

    experts: LoRAExperts
    row_routing: RowRouting
    dispatch: ExpertDispatch

    def layer(self, dtype: torch.dtype) -> _Layer:
        """Weights and factors in the type of products."""
        base = self.experts.base
        count = self.dispatch.by_expert.counts.shape[0]

        def factors(some: Sequence[str]) -> list[ExpertFactors]:
            names = [f"{self.experts.name}.{role}" for role in some]
            return [
                ExpertFactors.of(self.row_routing, name, count, dtype) for name in names if self.row_routing.adapt(name)
            ]

        (up, up_bias), (down, down_bias) = (
            (weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype))
            for weight, bias in (inward(base), outward(base))
        )
        return _Layer(base, up, up_bias, down, down_bias, factors(roles(base)[:-1]), factors(("down_proj",)))


@dataclass(frozen=True)
class _Layer:
    """The experts' weights and everyone's factors. W is [experts, d_out, d_in]; `up` is gate and up as they lie."""

    base: Any
    up: Tensor
    up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None
    inner: list[ExpertFactors]
    """Of gate and up."""
    outer: list[ExpertFactors]
    """Of down."""

    def activated(self, y: Float[Tensor, "rows d_up"]) -> Float[Tensor, "rows d_inner"]:
        """What gate and up become, by the base's own code."""
        h: Tensor = self.base._apply_gate(y) if self.base.has_gate else self.base.act_fn(y)
        return h.to(y.dtype)

    def of(self, own: ExpertFactors, y: Float[Tensor, "rows d_up"]) -> Float[Tensor, "rows d_out"]:
        """The columns of one matrix of gate and up."""
        return y[:, columns(self.base, own.role, y.shape[1])]

    def inward(
        self, block: ExpertBlock, x: Float[Tensor, "tokens d"], by_token: Sequence[Tensor | None]
    ) -> tuple[Float[Tensor, "rows d_up"], list[Float[Tensor, "rows rank"]]]:
        """x Wᵀ + bias + scale · x Aᵀ Bᵀ of gate and up, and x Aᵀ of each; `by_token` has it of a shared A."""
        rows = block.spread(x)
        y = block.by_expert.times(rows, self.up[block.experts].transpose(1, 2))
        if self.up_bias is not None:
            y += self.up_bias[block.expert]
        low_rank = []
        for own, known in zip(self.inner, by_token, strict=True):
            u = own.reduced(block, rows) if known is None else block.spread(known)
            own.expand(block, self.of(own, y), u)
            low_rank.append(u)
        return y, low_rank

    def outward(
        self, block: ExpertBlock, h: Float[Tensor, "rows d_inner"]
    ) -> tuple[Float[Tensor, "rows d"], list[Float[Tensor, "rows rank"]]]:
        """The same of down, but for what a shared B adds."""
        y = block.by_expert.times(h, self.down[block.experts].transpose(1, 2))
        if self.down_bias is not None:
            y += self.down_bias[block.expert]
        low_rank = []
        for own in self.outer:
            u = own.reduced(block, h)
            if not own.b_shared:
                own.expand(block, y, u)
            low_rank.append(u)
        return y, low_rank

    def outward_gradient(
        self,
        block: ExpertBlock,
        dout: Float[Tensor, "tokens d"],
        share: Float[Tensor, "rows 1"],
        h: Float[Tensor, "rows d_inner"],
        low_rank: Sequence[Float[Tensor, "rows rank"]],
        by_token: Sequence[Tensor | None],
    ) -> tuple[Float[Tensor, "rows d_inner"], Float[Tensor, " rows"]]:
        """The gradients of h and of the shares; `by_token` has that of u where B is shared.

        What each expert gave is not kept for the gradient of its share: that is (Wᵀ dy) · h as well as dy · (W h).
        """
        dy = block.spread(dout)
        dh = block.by_expert.times(dy, self.down[block.experts])  # before the share: the output's is `share` times it
        for own, u, known in zip(self.outer, low_rank, by_token, strict=True):
            weighted = (u * share).to(h.dtype)
            du = own.expanded_gradient(block, dy, weighted) if known is None else block.spread(known)
            own.add_reduced(block, dh, du)
            own.add_a_gradient(block, (du * share).to(h.dtype), h)
        dshare = (dh * h).sum(1)
        if self.down_bias is not None:
            dshare += (dy * self.down_bias[block.expert]).sum(1)
        return (dh * share).to(h.dtype), dshare

    def inward_gradient(
        self,
        block: ExpertBlock,
        dy: Float[Tensor, "rows d_up"],
        x: Float[Tensor, "tokens d"],
        low_rank: Sequence[Float[Tensor, "rows rank"]],
        needed: bool,
    ) -> tuple[Float[Tensor, "rows d"] | None, list[Float[Tensor, "rows rank"]]]:
        """The gradients of x, if needed and but for what comes through a shared A; and those of x Aᵀ."""
        rows = block.spread(x)
        dx = block.by_expert.times(dy, self.up[block.experts]) if needed else None
        of_low_rank = []
        for own, u in zip(self.inner, low_rank, strict=True):
            du = own.expanded_gradient(block, self.of(own, dy), u)
            if not own.a_shared:
                own.add_a_gradient(block, du, rows)
                if dx is not None:
                    own.add_reduced(block, dx, du)
            of_low_rank.append(du)
        return dx, of_low_rank


class _Experts(torch.autograd.Function):
    """Σ over a token's experts of share · down(activation(gate and up of x)), block by block.

    Shapes: x [tokens, d], weights [tokens, k], the result [tokens, d]. What a block needs and has made, but for what is
    kept, is gone when the next one begins: on a CPU it never leaves the cache.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, anchor: Tensor, call: _Call) -> Tensor:
        dispatch, layer = call.dispatch, call.layer(x.dtype)
        shares = weights.flatten()[dispatch.order, None]
        by_token = [own.reduced_once(x) if own.a_shared else None for own in layer.inner]
        out: Tensor | None = None
        weighted: list[Tensor | None] = [None] * len(layer.outer)
        kept = []
        for block in dispatch.blocks:
            y, inner = layer.inward(block, x, by_token)
            given, outer = layer.outward(block, layer.activated(y))
            share = shares[block.rows]
            out = dispatch.gathered(block, given * share, out)
            for number, (own, u) in enumerate(zip(layer.outer, outer, strict=True)):
                if own.b_shared:
                    weighted[number] = dispatch.gathered(block, u * share, weighted[number])
            kept += [y, *inner, *outer]
        assert out is not None, "there is a block at least"
        for own, total in zip(layer.outer, weighted, strict=True):
            if total is not None:
                own.expand_shared(out, total)
        ctx.save_for_backward(x, weights, *weighted, *kept)
        ctx.call = call
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, *kept = ctx.saved_tensors
        call: _Call = ctx.call
        dispatch, layer = call.dispatch, call.layer(x.dtype)
        call.experts.count(call.row_routing, dispatch, dout.abs().amax(1) > 0)
        dout = dout.to(x.dtype)
        shares = weights.flatten()[dispatch.order, None]
        outer, inner = len(layer.outer), len(layer.inner)
        by_token = [
            None if u is None else own.shared_gradient(dout, u.to(x.dtype))
            for own, u in zip(layer.outer, kept[:outer], strict=True)
        ]
        saved = iter(kept[outer:])
        dx: Tensor | None = None
        du: list[Tensor | None] = [None] * inner
        dshares = []
        for block in dispatch.blocks:
            y = next(saved).detach()
            of_inner, of_outer = ([next(saved) for _ in range(n)] for n in (inner, outer))
            with torch.enable_grad():
                h = layer.activated(y.requires_grad_())
            dh, dshare = layer.outward_gradient(block, dout, shares[block.rows], h.detach(), of_outer, by_token)
            (dy,) = torch.autograd.grad(h, y, dh)
            drows, dlow = layer.inward_gradient(block, dy, x, of_inner, ctx.needs_input_grad[0])
            dshares.append(dshare)
            if drows is not None:
                dx = dispatch.gathered(block, drows, dx)
            for number, own in enumerate(layer.inner):
                if own.a_shared:
                    du[number] = dispatch.gathered(block, dlow[number], du[number])
        for own, of_tokens in zip(layer.inner, du, strict=True):
            if of_tokens is not None:
                own.reduced_once_gradient(of_tokens.to(x.dtype), x, dx)
        dweights = torch.cat(dshares)[dispatch.back].view(weights.shape).to(weights.dtype)
        return None if dx is None else dx.to(x.dtype), dweights, None, None
