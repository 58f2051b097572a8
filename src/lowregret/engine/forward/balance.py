"""The loss by which a mixture keeps its experts evenly used, as the base's own modeling code defines it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from lowregret.errors import ModelError
from lowregret.models.experts import fused_experts
from lowregret.models.targets import Matrix

_FUNCTION = "load_balancing_loss_func"


class BalanceLoss:
    """coefficient · the base's load-balancing loss, from what its routers score in a pass.

    The loss of a batch is that of all its tokens together; of a batch in several passes it is the mean over the passes,
    weighted by supervised tokens. In a pack each policy has its own.
    """

    def __init__(self, model: PreTrainedModel, known: Sequence[Matrix]) -> None:
        """ModelError when the base defines none."""
        self._model: Any = model
        self._routers = [matrix.name for matrix in known if matrix.group == "router"]
        self._function: Any = getattr(sys.modules[type(model).__module__], _FUNCTION, None)
        self._coefficient: Any = getattr(model.config.get_text_config(), "router_aux_loss_coef", None)
        first: Any = next((module for _, module in fused_experts(model)), None)
        if self._function is None or self._coefficient is None or first is None or not self._routers:
            raise ModelError(
                f"{type(model).__name__} defines no load-balancing loss of its own ({_FUNCTION} and "
                "router_aux_loss_coef). Leave the switch balance_experts off."
            )
        self._experts: int = first.down_proj.shape[0]
        self._active: int = model.config.get_text_config().num_experts_per_tok
        self._scores: list[Tensor] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep what the routers score inside."""
        hooks = [self._model.get_submodule(name).register_forward_hook(self._keep) for name in self._routers]
        self._scores = []
        try:
            yield
        finally:
            self._scores = []
            for hook in hooks:
                hook.remove()

    def loss(self, tokens: Sequence[int], weights: Sequence[Float[Tensor, " positions"]]) -> Float[Tensor, ""]:
        """The sum over the policies of the pass: `tokens` of each, in order, and the weights of its positions."""
        scores = list(self._scores)  # a recomputed forward, under checkpointing, scores again
        split = [score.reshape(-1, self._experts).split(list(tokens)) for score in scores]
        parts = []
        for own, weight in zip(zip(*split, strict=True), weights, strict=True):
            parts.append(self._function(tuple(own), self._experts, self._active) * weight.sum())
        total: Tensor = torch.stack(parts).sum() * self._coefficient
        return total

    def _keep(self, module: Any, inputs: Any, output: Any) -> None:
        self._scores.append(output[0] if isinstance(output, tuple) else output)
