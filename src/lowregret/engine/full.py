"""All weights of a base as one policy: full fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Int64
from torch import nn
from transformers import PreTrainedModel

from lowregret.engine.device import cast_to_train, outside_layers
from lowregret.engine.forward.checkpointing import decoder_layers
from lowregret.engine.optim.in_backward import InBackward
from lowregret.engine.optim.optimizer import PolicyOptimizer, by_name
from lowregret.engine.parallel.base import train_base
from lowregret.engine.parallel.fsdp import in_parts, shard
from lowregret.engine.parallel.parts import BaseCuts
from lowregret.engine.policy import WHOLE, Policy
from lowregret.errors import SpecError
from lowregret.models.experts import fused_experts
from lowregret.models.sharded import here
from lowregret.spec import FullFT
from lowregret.spec.lean import require_able
from lowregret.spec.optimizer import DEFAULT_OPTIMIZER


@final
class FullPolicy(Policy):
    """The base's own weights, all of them; it must be the only policy of its engine."""

    def __init__(
        self,
        name: str,
        method: FullFT,
        model: PreTrainedModel,
        optimizer: str = DEFAULT_OPTIMIZER,
        cuts: BaseCuts = WHOLE,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`dtype`: of products, which that of narrow weights must be."""
        super().__init__(name, method.optimizer or optimizer)
        require_able(method, self._optimizer_type.spec, str(dtype), devices=cuts.ranks.count, cut=cuts.any)
        self.method = method
        train_base(model, cuts)
        narrow = {weight.dtype for weight in model.parameters() if weight.dtype.itemsize < torch.float32.itemsize}
        kinds = {str(dtype).removeprefix("torch.") for dtype in narrow}
        if in_parts(model) and kinds:
            raise SpecError(
                f"the base lies in parts of {', '.join(sorted(kinds))}, and what a FullFT policy trains is float32. "
                "Make the engine with base_trains."
            )
        hooks = cast_to_train(model, getattr(torch, self._optimizer_type.spec.WEIGHTS))
        model.requires_grad_(True)
        if not cuts.any or cuts.ranks.shards.count > 1:
            shard(model, decoder_layers(model), cuts.ranks)
        self.weights, self.initial = dict(model.named_parameters()), {}
        self.parts = cuts.base(in_parts=in_parts(model))
        self._cut, self._gathered = cuts.any, False
        """Whether the base is cut, and whether its gradients are those of all ranks."""
        self._model = model
        self._traffic: dict[str, torch.Tensor] = {}
        modules: dict[str, Any] = dict(fused_experts(model))
        self._experts = {name: cuts.total(name, module.down_proj.shape[0]) for name, module in modules.items()}
        """How many there are of each module."""
        self._hooks = [m.register_forward_hook(partial(self._count, name)) for name, m in modules.items()] + hooks
        self.optimizer = self._steps(outside_layers(model))

    def _steps(self, outside: Collection[str]) -> PolicyOptimizer[Any] | InBackward:
        if self.method.in_backward:
            return InBackward(self._optimizer_type, by_name(self.weights), self._watch, outside)
        return self._optimizer_type(by_name(self.weights), gradients_stay=False, outside=outside)

    def _watch(self, weight: nn.Parameter, step: Callable[[], None]) -> None:
        """In a backward pass: the first step must move every matrix."""
        names = [name for name, own in self.weights.items() if own is weight and own.ndim >= 2 and self.steps == 0]
        self.liveness.before_step(names, {})
        step()
        self.liveness.after_step(1)

    def before_backward(self) -> None:
        self._gathered = False

    def gather_gradients(self) -> None:
        """FSDP2 has added them up, part by part, as a backward pass made them, over the ranks among which it cuts."""
        if self._cut and not self._gathered:
            self.parts.add_gradients(self._gradients())
        self._gathered = True

    def gradient_norm(self) -> torch.Tensor | None:
        return self.parts.norm(self._gradients())

    def _gradients(self) -> dict[str, torch.Tensor]:
        """Those that lie on this rank."""
        return {name: here(weight.grad) for name, weight in self.weights.items() if weight.grad is not None}

    def watched(self, step: int) -> list[str]:
        if step != 1:
            return []
        matrices = {name: weight for name, weight in self.weights.items() if weight.ndim >= 2}
        own = self.optimizer
        if isinstance(own, InBackward):  # those that were stepped have been looked at then
            return [name for name, weight in matrices.items() if not own.has_moved(weight)]
        return list(matrices)

    def traffic(self) -> dict[str, Int64[torch.Tensor, "two experts"]]:
        return {name: self._traffic[name] for name in self._experts if name in self._traffic}

    def detach(self) -> None:
        self._model.requires_grad_(False)
        if isinstance(self.optimizer, InBackward):
            self.optimizer.detach()
        for hook in self._hooks:
            hook.remove()

    def _count(self, name: str, module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        """Once the gradient of the experts' output is there, add what went to each."""
        chosen = inputs[1]

        def add(gradient: torch.Tensor) -> None:
            reached = gradient.flatten(0, -2).abs().amax(1, keepdim=True) > 0
            found = self._traffic.setdefault(name, chosen.new_zeros(2, self._experts[name]))
            found[0].scatter_add_(0, chosen.flatten(), torch.ones_like(chosen).flatten())
            found[1].scatter_add_(0, chosen.flatten(), reached.expand(chosen.shape).to(chosen.dtype).flatten())

        if output.requires_grad:
            output.register_hook(add)
