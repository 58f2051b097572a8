"""What chooses among experts, with any number of LoRAs on its matrix, each for its own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from lowregret.errors import TargetError
from lowregret.lora.bank import AdapterBank
from lowregret.lora.linear import trained_factors
from lowregret.lora.routing import PolicyRouting
from lowregret.lora.spans import SlotSpan


class LoRARouter(nn.Module):
    """The base's router; for a policy's tokens, the same with W + scale · B A in the place of W.

    A router is no plain linear map: how it makes choices of scores is the base's own code, which runs unchanged. Its
    matrix is small (experts × hidden), so that the sum is made.
    """

    def __init__(self, name: str, base: nn.Module, routing: PolicyRouting) -> None:
        super().__init__()
        self.name = name
        self.base = base
        self.routing = routing
        self.banks: list[AdapterBank] = []

    @property
    def matrix(self) -> Float[Tensor, "experts d"]:
        """The base's weight; outside a pass it may lie in parts."""
        base: Any = self.base
        weight: Tensor = base.weight.detach()
        return weight

    def __getattr__(self, name: str) -> Any:
        """Some bases read more of their router than what it returns."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def forward(self, hidden: Float[Tensor, "*batch d"]) -> Any:
        """What the base's router returns for the tokens of the current pass, in its order."""
        spans = [span for span in self.routing.tokens if span.bank in self.banks]
        if not spans:
            return self.base(hidden)
        x = hidden.reshape(-1, hidden.shape[-1])
        if len(x) != spans[0].total:
            raise TargetError(f"{self.name} gets {len(x)} tokens in a pass of {spans[0].total}. Leave the router out.")
        outputs, place = [], 0
        for span in spans:
            start = span.start
            if start > place:
                outputs.append(self.base(x[place:start]))
            for index, size in enumerate(span.sizes):
                weight = self._weight(span, index)
                outputs.append(functional_call(self.base, {"weight": weight}, (x[start : start + size],)))
                start += size
            place = start
        if len(x) > place:
            outputs.append(self.base(x[place:]))
        return _joined(outputs)

    def _weight(self, span: SlotSpan, index: int) -> Float[Tensor, "experts d"]:
        slot = slice(span.slots.start + index, span.slots.start + index + 1)
        a, b = trained_factors(self.routing.anchor, self.name, span.bank, slot)
        base: Any = self.base
        whole: Tensor = base.weight + ((b * span.scales[index]) @ a).to(base.weight.dtype)
        return whole


def _joined(outputs: Sequence[Any]) -> Any:
    """The same of tensors, or of each of several."""
    if len(outputs) == 1:
        return outputs[0]
    if isinstance(outputs[0], Tensor):
        return torch.cat(list(outputs))
    return tuple(torch.cat(own) for own in zip(*outputs, strict=True))
