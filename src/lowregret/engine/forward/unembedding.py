"""The end of a pass: hidden states of the supervised positions → log-probabilities of their targets.

A hook on the unembedding takes its input away and leaves it nothing to compute, so that whatever the base does before
it is done by the base's own code; the product, the softmax and their gradients are then taken in chunks (`head.py`). A
base whose logits are not what `head_transform` says keeps its own unembedding, which then computes supervised positions
only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lowregret.engine.forward.head import head_transform, linear_cross_entropy, linear_logprobs
from lowregret.engine.forward.layout import PassLayout
from lowregret.engine.losses import token_logprobs
from lowregret.engine.parallel.autograd import enter, join
from lowregret.engine.parallel.cuts import Cut
from lowregret.lora.kernels import LEAST_CHUNK
from lowregret.lora.linear import LoRALinear, adapted_product
from lowregret.lora.spans import SlotSpan


class Unembedding:
    """The unembedding of a model, as it is at the time: adapters on it wrap it."""

    def __init__(self, model: PreTrainedModel, vocabulary: Cut | None = None, chunk_bytes: int = LEAST_CHUNK) -> None:
        """`vocabulary`: how its outputs are cut, where the module makes a part of the logits; `chunk_bytes` of them are
        there at once."""
        self._model = model
        self._chunk_bytes = chunk_bytes
        self._vocabulary = vocabulary
        self.scale, self.softcap = head_transform(model.config)
        self.chunked = True
        """Whether products are taken here, in chunks; else by the base."""
        self.selected: Tensor | None = None
        """Which flattened positions reach it in the current pass; None lets all pass."""
        self.temperature = 1.0
        """What the base's logits are divided by before the softmax of the current pass."""
        self._hidden: Tensor | None = None
        self._hooks: list[RemovableHandle] = []
        self.watch()

    @property
    def module(self) -> torch.nn.Module:
        """The module that makes logits, adapters included."""
        found: torch.nn.Module = self._model.get_output_embeddings()
        return found

    def watch(self) -> None:
        """Hook the module that is there now: call it after policies have come or gone."""
        for hook in self._hooks:
            hook.remove()
        module = self.module
        self._hooks = [module.register_forward_pre_hook(self._select), module.register_forward_hook(self._join)]

    def logprobs(self, logits: Tensor, layout: PassLayout, parts: list[SlotSpan]) -> Float[Tensor, " positions"]:
        """log p(target) of the layout's positions, float32, nats; `logits` are what the model returned."""
        return self._judged(logits, layout, parts, known_loss=False)[0]

    def cross_entropies(
        self, logits: Tensor, layout: PassLayout, parts: list[SlotSpan]
    ) -> tuple[Float[Tensor, " positions"], Mapping[tuple[int, int], Float[Tensor, ""]]]:
        """(log p(target), losses): `logprobs`, and for those who train the unembedding, or an update of it, the loss.

        A loss, by the (start, stop) of its positions, is −Σ weight · log p, and what its log-probabilities have instead
        of a gradient: that it is this one spares a product by the vocabulary, and the memory of the logits
        (`linear_cross_entropy`).
        """
        return self._judged(logits, layout, parts, known_loss=torch.is_grad_enabled())

    def _judged(
        self, logits: Tensor, layout: PassLayout, parts: list[SlotSpan], *, known_loss: bool
    ) -> tuple[Tensor, dict[tuple[int, int], Tensor]]:
        losses: dict[tuple[int, int], Tensor] = {}
        if not self.chunked:
            logits = logits.reshape(-1, logits.shape[-1])
            if logits.shape[0] != layout.targets.shape[0]:  # a base that reads its unembedding's weight uncalled
                logits = logits[layout.selected]
            return token_logprobs(logits / self.temperature, layout.targets), losses
        hidden, self._hidden = self._hidden, None
        if hidden is None:
            raise NotImplementedError("the base does not call its unembedding")

        def judged(own: slice, inputs: Tensor, weight: Tensor, update: tuple[Tensor, Tensor] | None) -> None:
            if own.stop == own.start:
                return
            targets, given = layout.targets[own], {"update": update, **self._transform}
            if known_loss and own in layout.parts and (update is not None or weight.requires_grad):
                loss, found = linear_cross_entropy(inputs, weight, targets, layout.weights[own], **given)
                losses[own.start, own.stop] = loss
            else:
                found = linear_logprobs(inputs, weight, targets, **given)
            pieces.append(found)

        module, pieces, start = self.module, list[Tensor](), 0
        for part in parts:
            if not isinstance(module, LoRALinear) or part.bank not in module.banks:
                continue
            plain = slice(start, part.start)
            judged(plain, hidden[plain], self._weight, None)
            start = part.start
            for slot, size in enumerate(part.sizes):
                own = slice(start, start + size)
                judged(own, *adapted_product(module, part, slot, hidden[own], self._weight))
                start += size
        plain = slice(start, hidden.shape[0])
        judged(plain, hidden[plain], self._weight, None)
        return torch.cat(pieces) if pieces else hidden.new_zeros(0, dtype=torch.float32), losses

    @property
    def _plain(self) -> Any:
        """The unembedding without adapters."""
        module = self.module
        return module.base if isinstance(module, LoRALinear) else module

    @property
    def _weight(self) -> Float[Tensor, "vocabulary d"]:
        plain = self._plain
        weight = getattr(plain, "weight", None)
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            raise NotImplementedError(f"a {type(plain).__name__} as the unembedding")
        return weight.T if isinstance(plain, Conv1D) else weight

    @property
    def _transform(self) -> dict[str, Any]:
        # cap(scale · x) / temperature: a cap that is as much lower saturates at the same x.
        softcap = None if self.softcap is None else self.softcap / self.temperature
        return {
            "bias": getattr(self._plain, "bias", None),
            "softcap": softcap,
            "scale": self.scale / self.temperature,
            "vocabulary": self._vocabulary,
            "chunk_bytes": self._chunk_bytes,
        }

    def _select(self, head: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """[rows, length, d] → [positions, d], or nothing at all when the product is taken here."""
        if self.selected is None and self._vocabulary is None:
            return None
        if not inputs:
            raise NotImplementedError("the base calls its unembedding by keyword")
        chosen = inputs[0]
        if self.selected is not None:
            chosen = chosen.flatten(0, -2).index_select(0, self.selected)
        if self._vocabulary is not None:
            chosen = enter(chosen, self._vocabulary.axis)
        if self.selected is None or not self.chunked:
            return (chosen, *inputs[1:])
        self._hidden = chosen
        return (chosen[:0], *inputs[1:])

    def _join(self, head: torch.nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """All logits, of which every rank makes a part: whatever the base does with them is done by its own code."""
        if self._vocabulary is None:
            return None
        if self.selected is not None and self.chunked:
            return output.new_zeros(*output.shape[:-1], self._vocabulary.whole)
        return join(output, self._vocabulary)
