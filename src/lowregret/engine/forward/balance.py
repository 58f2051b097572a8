"""The loss by which a mixture keeps its experts evenly used, as the base's own modeling code defines it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from lowregret.engine.forward.layout import PassLayout
from lowregret.engine.parallel.mesh import ALONE, Ranks
from lowregret.errors import ModelError, SpecError
from lowregret.models.experts import fused_experts
from lowregret.models.targets import Matrix

_FUNCTION = "load_balancing_loss_func"


class BalanceLoss:
    """coefficient · the base's load-balancing loss, from what its routers score in a pass.

    The loss of a batch is that of all its tokens together; of a batch in several passes it is the mean over the passes,
    weighted by supervised tokens. In a pack each policy has its own.

    Where ranks have rows of one batch each, a pass is what all of them compute at once: every rank takes the loss of
    everybody's scores, of which its own alone have gradients. Those of all ranks then add up to the gradient of the
    whole, whatever the base's function is.
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
        self._experts = max(matrix.experts.total for matrix in known if matrix.experts)
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

    def loss(
        self, layout: PassLayout, ranks: Ranks = ALONE, rows: Mapping[str, int] | None = None
    ) -> Float[Tensor, ""]:
        """The sum over the policies of a pass, which `watching` has seen.

        `ranks` compute rows of the same policies at once; of each policy's in this pass the first `rows` are of its
        batch, and what follows is counted nowhere. Three exchanges: how many tokens each rank has, what these score,
        and what they weigh.
        """
        scored = list(self._scores)  # a recomputed forward, under checkpointing, scores again
        split = [scores.reshape(-1, self._experts).split(list(layout.tokens)) for scores in scored]
        own = [torch.stack(layers) for layers in zip(*split, strict=True)]
        shares = torch.stack([layout.weights[part].sum() for part in layout.parts])
        if ranks.data.count > 1:
            counts = [layout.tokens_of(name, None if rows is None else rows[name]) for name in layout.names]
            own = _everybodys([scores[:, :count] for scores, count in zip(own, counts, strict=True)], ranks)
            ranks.add(shares)
        parts = [self._function(tuple(scores), self._experts, self._active) for scores in own]
        total: Tensor = (torch.stack(parts) * shares).sum() * self._coefficient
        return total

    def _keep(self, module: Any, inputs: Any, output: Any) -> None:
        self._scores.append(output[0] if isinstance(output, tuple) else output)


def _everybodys(own: Sequence[Float[Tensor, "layers tokens experts"]], ranks: Ranks) -> list[Tensor]:
    """Scores of all ranks' tokens of each policy, one rank after the other; gradients flow to the own ones."""
    counts = torch.zeros(ranks.data.count, len(own), dtype=torch.int64, device=own[0].device)
    counts[ranks.data.rank] = torch.tensor([part.shape[1] for part in own])
    ranks.add(counts)
    sizes = counts.flatten().tolist()
    layers, _, experts = own[0].shape
    blocks = list(own[0].new_zeros(layers, sum(sizes), experts).split(sizes, dim=1))
    mine = slice(ranks.data.rank * len(own), (ranks.data.rank + 1) * len(own))
    for block, part in zip(blocks[mine], own, strict=True):
        block.copy_(part.detach())
    everyones = torch.cat(blocks, 1)
    ranks.add(everyones)
    blocks = list(everyones.split(sizes, dim=1))
    blocks[mine] = own
    return [torch.cat(blocks[place :: len(own)], 1) for place in range(len(own))]


def require_one_device(ranks: Ranks, path: str) -> None:
    """SpecError for several ranks where rows are padded, which is how `path` runs the base."""
    if not ranks.alone:
        raise SpecError(
            "the load-balancing loss counts padding, which depends on the rows of a pass, and this base is run by "
            f"{path}. Leave balance_experts out, or train on one device."
        )
