"""The experts of a mixture as transformers holds them: the weights of all experts of a layer in one tensor each.

A layer's experts are one module with `down_proj` and `gate_up_proj` (or, without gates, `up_proj`) of three dimensions.
Four facts about a family, which transformers notes on the module, say how they lie: whether there are gates, whether
gate and up lie one after the other or row by row, whether matrices are stored transposed, and whether there are biases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from lowregret.errors import TargetError

_ACTIVE = ("num_experts_per_tok", "experts_per_token", "moe_topk", "top_k_experts")
"""Where configurations say how many experts a token passes through."""


@dataclass(frozen=True)
class Experts:
    """What a matrix is, of which every expert of a layer has one."""

    count: int
    """Those that are here: all, but for processes that each hold some."""
    active: int
    """Experts that a token passes through."""
    hidden: Literal["in", "out"]
    """The side that faces the model's hidden states, which all experts of a layer see: `in` of gate and up."""
    elsewhere: int = 0
    """Those that other processes hold."""

    @property
    def total(self) -> int:
        """Experts of a layer."""
        return self.count + self.elsewhere


def fused_experts(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """Every module of experts whose layout is known, with its name."""
    for name, module in model.named_modules():
        down = getattr(module, "down_proj", None)
        if hasattr(module, "is_concatenated") and isinstance(down, nn.Parameter) and down.ndim == 3:
            yield name, module


def roles(module: Any) -> tuple[str, ...]:
    """The matrices that each expert has."""
    return ("gate_proj", "up_proj", "down_proj") if module.has_gate else ("up_proj", "down_proj")


def weight(module: Any, role: str) -> Float[Tensor, "experts d_out d_in"]:
    """A view of one matrix of every expert, the way round it multiplies."""
    stored: Tensor = getattr(module, stored_name(module, role))
    turned = stored.transpose(1, 2) if module.is_transposed else stored
    return _half(module, role, turned)


def bias(module: Any, role: str) -> Float[Tensor, "experts d_out"] | None:
    """A view of one bias of every expert."""
    return _half(module, role, getattr(module, f"{stored_name(module, role)}_bias")) if module.has_bias else None


def inward(module: Any) -> tuple[Float[Tensor, "experts d_out d_in"], Float[Tensor, "experts d_out"] | None]:
    """Weight and bias of the product that hidden states enter by: gate and up in one, as they lie."""
    name = stored_name(module, "up_proj")
    stored: Tensor = getattr(module, name)
    turned = stored.transpose(1, 2) if module.is_transposed else stored
    return turned, getattr(module, f"{name}_bias") if module.has_bias else None


def outward(module: Any) -> tuple[Float[Tensor, "experts d_out d_in"], Float[Tensor, "experts d_out"] | None]:
    """Weight and bias of the product that leads back to hidden states: down."""
    return weight(module, "down_proj"), bias(module, "down_proj")


def columns(module: Any, role: str, outputs: int) -> slice:
    """Where one matrix's outputs lie among the `outputs` of its stored tensor."""
    if role == "down_proj" or not module.has_gate:
        return slice(0, outputs)
    first = role == "gate_proj"
    if module.is_concatenated:
        return slice(0, outputs // 2) if first else slice(outputs // 2, outputs)
    return slice(0 if first else 1, outputs, 2)


def active_experts(name: str, module: Any) -> int:
    """Experts that a token passes through; TargetError when the configuration does not say."""
    for field in _ACTIVE:
        found = getattr(module.config, field, None)
        if isinstance(found, int):
            return found
    raise TargetError(
        f"{name}: this base's configuration does not say how many experts a token passes through "
        f"({', '.join(_ACTIVE)}). Use the target `attention`, or `full`."
    )


def stored_name(module: Any, role: str) -> str:
    """The tensor of the module that holds a matrix."""
    return "gate_up_proj" if role != "down_proj" and module.has_gate else role


def _half(module: Any, role: str, stored: Tensor) -> Tensor:
    return stored[:, columns(module, role, stored.shape[1])]
