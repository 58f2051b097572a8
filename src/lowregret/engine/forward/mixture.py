"""How the base's own experts compute when products are in bfloat16 and their weights are not.

transformers' grouped products are outside autocast: they are taken in the type of the weights. Those of a FullFT policy
are float32, so that LoRA, whose base is bfloat16, would not start from the same function, and a GPU would take the slow
way. So a model's experts get a function that casts the weights first, as autocast does for any linear map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

from lowregret.models.experts import fused_experts

NAME = "lowregret_autocast"


def experts_under_autocast(model: PreTrainedModel) -> None:
    """Let every module of fused experts follow autocast."""
    for _, module in fused_experts(model):
        config: Any = module.config
        if config._experts_implementation == "grouped_mm":
            config._experts_implementation_internal = NAME


class _Cast:
    """A module of experts with its tensors in another type."""

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        self._module, self._dtype = module, dtype

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        return found.to(self._dtype) if isinstance(found, torch.nn.Parameter) else found


def _forward(self: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    device = hidden.device.type
    experts = _Cast(self, torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else self
    found: Tensor = grouped_mm_experts_forward(experts, hidden, chosen, weights)  # type: ignore[arg-type]
    return found


ALL_EXPERTS_FUNCTIONS.register(NAME, _forward)
