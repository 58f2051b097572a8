"""How the base's own experts compute when their weights are not of the type of products: float32 beside bfloat16, or in
four bits.

transformers' grouped products are outside autocast: they are taken in the type of the weights. Those of a FullFT policy
are float32, so that LoRA, whose base is bfloat16, would not start from the same function, and a GPU would take the slow
way. So a model's experts get a function that casts the weights first, as autocast does for any linear map.

Weights in four bits are unpacked for the layer at work, and once more in the backward pass, so that none is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

from lowregret.models.experts import fused_experts
from lowregret.models.four_bit import FourBitWeight

NAME = "lowregret_autocast"


def experts_under_autocast(model: PreTrainedModel) -> None:
    """Let every module of fused experts follow autocast."""
    for _, module in fused_experts(model):
        config: Any = module.config
        if config._experts_implementation == "grouped_mm":
            config._experts_implementation_internal = NAME


class _Cast:
    """A module of experts with its tensors in another type, unpacked."""

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        self._module, self._dtype = module, dtype

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if not isinstance(found, torch.nn.Parameter):
            return found
        cast = found.to(self._dtype)
        return cast.unpacked() if isinstance(cast, FourBitWeight) else cast


def _forward(self: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    device = hidden.device.type
    enabled = torch.is_autocast_enabled(device)
    packed = isinstance(self.down_proj, FourBitWeight)
    dtype = torch.get_autocast_dtype(device) if enabled else self.down_proj.dtype

    def compute(hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        experts = _Cast(self, dtype) if enabled or packed else self
        found: Tensor = grouped_mm_experts_forward(experts, hidden, chosen, weights)  # type: ignore[arg-type]
        return found

    if not (packed and torch.is_grad_enabled()):
        return compute(hidden, chosen, weights)
    found: Tensor = checkpoint(compute, hidden, chosen, weights, use_reentrant=False, preserve_rng_state=False)
    return found


ALL_EXPERTS_FUNCTIONS.register(NAME, _forward)
