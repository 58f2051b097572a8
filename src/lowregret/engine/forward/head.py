"""The unembedding and the log-softmax in one: log p(target) of each position, without the full logits.

Logits of all positions by the whole vocabulary are the largest tensor of a training step, and they are only wanted for
one number a position. Here they exist for a chunk of positions at a time, and the softmax is taken in place.

With z = hidden · Wᵀ, p = softmax(z) and g the gradient of the loss by the log-probabilities:

    d log p(target) / d hidden = W[target] − p · W             d loss / d W = Σ g · (onehot(target) − p)ᵀ · hidden

The first does not depend on the loss. With a frozen W it is therefore computed in the forward pass, while the chunk's
p is there: two products by the vocabulary in all, as many as with full logits. When W (or an update of it) trains, g is
needed too. `linear_cross_entropy` knows it, and does all in the forward pass. For another loss the backward pass
computes the chunks again: four products instead of three, the price of not keeping the logits; it is not paid when all
positions fit into one chunk, which is then kept.

With `vocabulary`, the weight, its bias and b hold this rank's part of the vocabulary, the same positions are given on
all ranks, and targets are of the whole: the largest logit, the sums and the targets' logits are found over all parts,
3 numbers a position (`parallel/tensor.py`). The gradients of hidden and u are then a part's, to be added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import PretrainedConfig

from lowregret.engine.losses import cross_entropy
from lowregret.engine.parallel.cuts import Cut
from lowregret.lora.kernels import LEAST_CHUNK


def linear_logprobs(
    hidden: Float[Tensor, "positions d"],
    weight: Float[Tensor, "vocabulary d"],
    targets: Int[Tensor, " positions"],
    *,
    bias: Float[Tensor, " vocabulary"] | None = None,
    update: tuple[Float[Tensor, "positions rank"], Float[Tensor, "vocabulary rank"]] | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk_bytes: int = LEAST_CHUNK,
    vocabulary: Cut | None = None,
) -> Float[Tensor, " positions"]:
    """log p(target) of each position, nats; float32, or float64 for float64 inputs.

    logits = cap(scale · (hidden · weightᵀ + bias + u · bᵀ)) with `update` = (u, b), a low-rank change of the weight
    (u = hidden · Aᵀ for a LoRA), and cap(z) = softcap · tanh(z / softcap) or nothing. `chunk_bytes` bounds the working
    buffers (one position at least). Under autocast products are taken in its dtype and the softmax in float32.

    All floating inputs get gradients, once (no double backward). Under no_grad nothing is kept.
    """
    u, b = (None, None) if update is None else update
    settings = (softcap, scale, chunk_bytes, vocabulary)
    logprobs: Tensor = _LinearLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, u, b, targets, settings, torch.is_grad_enabled()
    )
    return logprobs


def linear_cross_entropy(
    hidden: Float[Tensor, "positions d"],
    weight: Float[Tensor, "vocabulary d"],
    targets: Int[Tensor, " positions"],
    weights: Float[Tensor, " positions"],
    *,
    bias: Float[Tensor, " vocabulary"] | None = None,
    update: tuple[Float[Tensor, "positions rank"], Float[Tensor, "vocabulary rank"]] | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk_bytes: int = LEAST_CHUNK,
    vocabulary: Cut | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, " positions"]]:
    """(loss, log-probabilities) = (−Σ weights · log p(target), log p(target)), for a weight that trains.

    The loss is `losses.cross_entropy` of `linear_logprobs`, but as it is known beforehand nothing is computed twice,
    however many chunks there are. It can be differentiated once; the log-probabilities and `weights` get no gradient.
    """
    u, b = (None, None) if update is None else update
    settings = (softcap, scale, chunk_bytes, vocabulary)
    both: tuple[Tensor, Tensor] = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, u, b, targets, weights, settings, torch.is_grad_enabled()
    )
    return both


def head_transform(config: PretrainedConfig) -> tuple[float, float | None]:
    """(scale, softcap) that a base applies to its logits, from its transformers configuration.

    `logit_scale` multiplies (Cohere), `logits_scaling` divides (Granite), `final_logit_softcapping` caps (Gemma).
    A base may know others, or read one of these another way: compare with its own logits before relying on this.
    """
    text = config.get_text_config()
    scale = getattr(text, "logit_scale", None)
    divisor = getattr(text, "logits_scaling", None)
    softcap = getattr(text, "final_logit_softcapping", None)
    return (
        (1.0 if scale is None else float(scale)) / (1.0 if divisor is None else float(divisor)),
        None if softcap is None else float(softcap),
    )


class _LinearLogprobs(torch.autograd.Function):
    """`linear_logprobs`; `settings` are softcap, scale, chunk_bytes and vocabulary."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        u: Tensor | None,
        b: Tensor | None,
        targets: Tensor,
        settings: tuple[float | None, float, int, Cut | None],
        grad_enabled: bool,
    ) -> Tensor:
        inputs = (hidden, weight, bias, u, b, targets)
        ctx.settings = (*settings, _product_dtype(hidden))
        chunks = _Chunks(inputs, *ctx.settings)
        needs = tuple(grad_enabled and need for need in ctx.needs_input_grad[:5])
        ctx.vocabulary_trains = needs[1] or needs[2] or needs[4]
        ctx.whole = ctx.vocabulary_trains and len(chunks.parts) == 1
        by_row = _Gradients(chunks, (False,) * 5 if ctx.vocabulary_trains else needs)
        kept: tuple[Tensor | None, ...] = ()
        logprobs = chunks.empty(hidden.shape[0], dtype=chunks.precise)
        for part in chunks.parts:
            logprobs[part] = chunks.logprobs(part)
            if ctx.whole:
                kept = chunks.residual(part)
            elif any(needs) and not ctx.vocabulary_trains:
                by_row.add(part, *chunks.residual(part))
        if ctx.vocabulary_trains:
            ctx.save_for_backward(*inputs, *kept)
        else:
            ctx.save_for_backward(by_row.hidden, by_row.u)
        ctx.dtypes = hidden.dtype, None if u is None else u.dtype
        return logprobs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad[:, None]
        if not ctx.vocabulary_trains:
            by_hidden, by_u = (
                None if by is None else (by * grad).to(dtype)
                for by, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
            )
            return by_hidden, None, None, by_u, None, None, None, None
        inputs, kept = ctx.saved_tensors[:6], ctx.saved_tensors[6:]
        chunks = _Chunks(inputs, *ctx.settings, buffers=not ctx.whole)
        gradients = _Gradients(chunks, ctx.needs_input_grad[:5])
        for part in chunks.parts:
            if not ctx.whole:
                chunks.logprobs(part)
            residual, factor = kept if ctx.whole else chunks.residual(part)
            gradients.add(part, residual, factor * grad[part])
        return *gradients.like(inputs), None, None, None


class _LinearCrossEntropy(torch.autograd.Function):
    """`linear_cross_entropy`: g = −weights, so that all gradients are there when the forward pass ends."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        u: Tensor | None,
        b: Tensor | None,
        targets: Tensor,
        weights: Tensor,
        settings: tuple[float | None, float, int, Cut | None],
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor]:
        inputs = (hidden, weight, bias, u, b, targets)
        chunks = _Chunks(inputs, *settings, _product_dtype(hidden))
        needs = tuple(grad_enabled and need for need in ctx.needs_input_grad[:5])
        gradients = _Gradients(chunks, needs)
        logprobs = chunks.empty(hidden.shape[0], dtype=chunks.precise)
        for part in chunks.parts:
            logprobs[part] = chunks.logprobs(part)
            if any(needs):
                residual, factor = chunks.residual(part)
                gradients.add(part, residual, factor.mul_(-weights[part, None]))
        of_hidden, of_weight, of_bias, of_u, of_b = gradients.like(inputs)
        # Only what grows with the positions is an activation; the rest is the gradient of parameters, a little early.
        ctx.save_for_backward(of_hidden, of_u)
        ctx.of_vocabulary = (of_weight, of_bias, of_b)
        ctx.mark_non_differentiable(logprobs)
        return cross_entropy(logprobs, weights), logprobs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        of_hidden, of_u = (None if x is None else x * grad for x in ctx.saved_tensors)
        if ctx.of_vocabulary is None:
            raise RuntimeError("linear_cross_entropy: backward a second time; its gradients are handed over the first.")
        of_weight, of_bias, of_b = (None if x is None else x.mul_(grad) for x in ctx.of_vocabulary)
        ctx.of_vocabulary = None
        return of_hidden, of_weight, of_bias, of_u, of_b, None, None, None, None


class _Chunks:
    """The positions in chunks of about equal size, and the buffers that one chunk at a time is computed in.

    All are [chunk, vocabulary]: `product` is what matrix products give and take, `wide` the same in the precision of
    the softmax, `values` what the softmax works on. They are one buffer, but for products in a lower precision and for
    capped logits, whose tanh stays in `wide`.
    """

    def __init__(
        self,
        inputs: tuple[Any, ...],
        softcap: float | None,
        scale: float,
        chunk_bytes: int,
        cut: Cut | None,
        dtype: torch.dtype,
        *,
        buffers: bool = True,
    ) -> None:
        hidden, weight, bias, u, b, targets = inputs
        self.dtype = dtype
        self.precise = torch.float64 if dtype is torch.float64 else torch.float32
        self.device = hidden.device
        self.hidden, self.weight = hidden.detach().to(dtype), weight.detach().to(dtype)
        self.bias, self.u, self.b = (None if x is None else x.detach().to(dtype) for x in (bias, u, b))
        self.targets, self._cut_vocabulary = targets[:, None], cut
        if cut is not None:
            self._here = (self.targets >= cut.start) & (self.targets < cut.start + cut.size)
            self.targets = (self.targets - cut.start).clamp(0, cut.size - 1)
        self.softcap, self.scale = softcap, scale
        lower = dtype is not self.precise
        numbers = self.precise.itemsize * (1 if softcap is None else 2) + (dtype.itemsize if lower else 0)
        positions, vocabulary = hidden.shape[0], weight.shape[0]
        # As many chunks on every rank: the same exchanges.
        most = max(1, chunk_bytes // ((vocabulary if cut is None else cut.largest) * numbers))
        size = -(-positions // max(1, -(-positions // most)))  # equal chunks: a short last one is a slow product
        self.parts = [slice(start, min(start + size, positions)) for start in range(0, positions, max(1, size))]
        if buffers:
            self._values = self.empty(size, vocabulary, dtype=self.precise)
            self._wide = self._values if softcap is None else torch.empty_like(self._values)
            self._product = self.empty(size, vocabulary) if lower else self._wide

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Uninitialised, in the dtype of products unless another is named."""
        return torch.empty(shape, dtype=dtype or self.dtype, device=self.device)

    def zeros(self, *shape: int) -> Tensor:
        """For sums over chunks, which are taken in float32 at least."""
        return torch.zeros(shape, dtype=self.precise, device=self.device)

    def _cut(self, buffer: Tensor, part: slice) -> Tensor:
        return buffer[: part.stop - part.start]

    def logprobs(self, part: slice) -> Float[Tensor, " chunk"]:
        """log p(target) of a chunk. Leaves exp(z − max z) in `values`, and its sums beside it.

        In place or with `out=`: next to nothing is allocated, and autocast leaves such calls alone.
        """
        product, wide, values = (self._cut(x, part) for x in (self._product, self._wide, self._values))
        factor = self.scale if self.softcap is None else self.scale / self.softcap
        if self.bias is None:
            product.addmm_(self.hidden[part], self.weight.t(), beta=0, alpha=factor)
        else:
            torch.addmm(self.bias, self.hidden[part], self.weight.t(), beta=factor, alpha=factor, out=product)
        if self.u is not None and self.b is not None:
            product.addmm_(self.u[part], self.b.t(), alpha=factor)
        if self.dtype is not self.precise:
            wide.copy_(product)
        if self.softcap is not None:
            torch.mul(wide.tanh_(), self.softcap, out=values)
        top = values.amax(1, keepdim=True)
        target = values.gather(1, self.targets[part])
        cut = self._cut_vocabulary
        if cut is not None:
            cut.axis.largest(top)
        target = target - top
        self._sums = values.sub_(top).exp_().sum(1, keepdim=True)
        if cut is not None:
            both = torch.cat([target * self._here[part], self._sums], 1)
            cut.axis.add(both)
            target, self._sums = both.split(1, 1)
        return (target - self._sums.log())[:, 0]

    def residual(self, part: slice) -> tuple[Float[Tensor, "chunk vocabulary"], Float[Tensor, "chunk 1"]]:
        """(R, f) with d log p(target) / d (hidden · weightᵀ) = f · R, of the chunk `logprobs` was last asked for.

        R = (p − onehot) · Σ · cap′ is in a buffer and in the dtype of products; f = −scale / Σ. One is taken off at
        the target before the product: W[target] − p · W would cancel where the model is sure.
        """
        values, product = self._cut(self._values, part), self._cut(self._product, part)
        at_target = -self._sums if self._cut_vocabulary is None else -self._sums * self._here[part]
        values.scatter_add_(1, self.targets[part], at_target)
        if self.softcap is not None:
            values.addcmul_(values, self._cut(self._wide, part).square_(), value=-1)  # tanh′ = 1 − tanh²
        if self.dtype is not self.precise:
            values = product.copy_(values)
        return values, -self.scale / self._sums


class _Gradients:
    """Gradients of hidden, weight, bias, u and b, as far as needed; each adds up in one buffer, chunk by chunk."""

    def __init__(self, chunks: _Chunks, needs: tuple[bool, ...]) -> None:
        self._chunks = chunks
        of_hidden, of_weight, of_bias, of_u, of_b = needs
        weight, u, b = chunks.weight, chunks.u, chunks.b
        self.hidden = torch.empty_like(chunks.hidden) if of_hidden else None
        self.u = torch.empty_like(u) if of_u and u is not None else None
        self.weight = chunks.zeros(*weight.shape) if of_weight else None
        self.bias = chunks.zeros(weight.shape[0], 1) if of_bias else None
        self.b = chunks.zeros(*b.shape) if of_b and b is not None else None

    def add(self, part: slice, residual: Float[Tensor, "chunk vocabulary"], factor: Float[Tensor, "chunk 1"]) -> None:
        """Add a chunk whose gradient by the products is factor · residual.

        The factor goes to the small operand or result of each product: no pass over [chunk, vocabulary].
        """
        chunks = self._chunks
        if self.hidden is not None:
            torch.mm(residual, chunks.weight, out=self.hidden[part]).mul_(factor)
        if self.u is not None and chunks.b is not None:
            torch.mm(residual, chunks.b, out=self.u[part]).mul_(factor)
        if self.weight is not None:
            _add_product(self.weight, residual, chunks.hidden[part] * factor)
        if self.bias is not None:
            _add_product(self.bias, residual, factor)
        if self.b is not None and chunks.u is not None:
            _add_product(self.b, residual, chunks.u[part] * factor)

    def like(self, inputs: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
        """The gradients in the shapes and dtypes of hidden, weight, bias, u and b."""
        found = (self.hidden, self.weight, self.bias, self.u, self.b)
        return tuple(
            None if gradient is None or of is None else gradient.view(of.shape).to(of.dtype)
            for gradient, of in zip(found, inputs, strict=False)
        )


def _add_product(
    total: Float[Tensor, "vocabulary n"], residual: Float[Tensor, "chunk vocabulary"], x: Float[Tensor, "chunk n"]
) -> None:
    """total += residualᵀ · x; where dtypes differ, by blocks as large as the chunk: no temporary of total's size."""
    x = x.to(residual.dtype)
    if total.dtype is residual.dtype:
        total.addmm_(residual.t(), x)
        return
    rows = max(1, residual.numel() // x.shape[1])
    for start in range(0, total.shape[0], rows):
        total[start : start + rows] += torch.mm(residual[:, start : start + rows].t(), x)


def _product_dtype(hidden: Tensor) -> torch.dtype:
    """What F.linear would take here: autocast's dtype where it is on, but float64 stays."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype is not torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden.dtype
