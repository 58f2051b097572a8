"""A base of which this process keeps its part: of each matrix (`tensor.py`), and of the experts (`expert.py`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lowregret.engine.forward.path import PROBE_TOLERANCE
from lowregret.engine.losses import token_logprobs
from lowregret.engine.parallel.autograd import join
from lowregret.engine.parallel.cuts import Cut
from lowregret.engine.parallel.expert import ExpertExchange, cut_experts
from lowregret.engine.parallel.mesh import Ranks
from lowregret.engine.parallel.parts import BaseCuts
from lowregret.engine.parallel.tensor import OTHERWISE, cut_matrices, share_weight
from lowregret.errors import SpecError

_CUT = "lowregret_cut"
"""What a model is marked with."""


@torch.no_grad()
def cut_base(model: PreTrainedModel, ranks: Ranks, dtype: torch.dtype) -> tuple[BaseCuts, ExpertExchange | None]:
    """Leave of a base this rank's part, in place; types are to be final. Nothing without tensor and expert ranks.

    Returns how it is cut, and what carries tokens to experts of other ranks. A short row, with products in `dtype`,
    must get the log-probabilities that it got before: SpecError when it does not, and for what cannot be cut.
    """
    if ranks.tensor.count == ranks.expert.count == 1:
        return BaseCuts(ranks), None
    kind = type(model).__name__
    if hasattr(model, _CUT):
        raise SpecError(f"{kind} was cut for another engine already: load the base again.")
    before = _answers(model, dtype)
    cut = cut_matrices(model, ranks.tensor)
    experts, exchange = cut_experts(model, ranks.expert)
    weights = dict(cut.weights)
    for name, own in experts.items():
        parameters = model.get_submodule(name).named_parameters(recurse=False)
        weights |= {f"{name}.{key}": replace(own, dim=-parameter.ndim) for key, parameter in parameters}
    setattr(model, _CUT, True)
    try:
        after = _answers(model, dtype, cut.vocabulary)
    except (RuntimeError, ValueError) as error:
        raise SpecError(
            f"{kind}: its code does not run in parts ({str(error).splitlines()[0]}). {OTHERWISE}"
        ) from error
    worst = float((after - before).abs().max())
    if not worst <= PROBE_TOLERANCE[dtype]:
        raise SpecError(
            f"{kind}: computed in parts, log-probabilities differ from its own by {worst:.3g} nats, so it is not "
            f"cut as transformers says of its family. {OTHERWISE}"
        )
    return BaseCuts(ranks, cut.sides, cut.vocabulary, weights, cut.inside, experts), exchange


def train_base(model: PreTrainedModel, cuts: BaseCuts) -> None:
    """Make a base that is cut ready to train, before its weights are asked for.

    SpecError for a mesh that has shard ranks too, which FSDP2 would cut once more, and for a bias of a rowwise matrix,
    which one rank adds for all.
    """
    if not cuts.any:
        return
    ranks = cuts.ranks
    tensor, expert = ranks.tensor.count, ranks.expert.count
    shard = ranks.count // (tensor * expert * ranks.replicate)
    if shard > 1:
        raise SpecError(
            f"full fine-tuning is not computed with fsdp={shard} beside tensor={tensor} and expert={expert}: ask for "
            f"replicate={shard * ranks.replicate} in its place, or for fsdp={ranks.count} alone."
        )
    biased = [name for name in cuts.rowwise if getattr(model.get_submodule(name), "bias", None) is not None]
    if biased:
        raise SpecError(
            f"{type(model).__name__}: {biased[0]} has a bias, which full fine-tuning with tensor={tensor} does not "
            f"compute. {OTHERWISE}"
        )
    if cuts.vocabulary is not None:
        share_weight(model, cuts.vocabulary)


def _answers(model: PreTrainedModel, dtype: torch.dtype, vocabulary: Cut | None = None) -> Tensor:
    """log p of each token of a short row, by the model's own code; `vocabulary`: how its logits are cut."""
    embedding: Any = model.get_input_embeddings()
    rows = int(embedding.weight.shape[0])
    ids = torch.tensor([[number * rows // 9 for number in range(1, 9)]], device=embedding.weight.device)
    hook = None
    if vocabulary is not None:
        cut = vocabulary
        hook = model.get_output_embeddings().register_forward_hook(lambda module, inputs, part: join(part, cut))
    try:
        with torch.autocast(ids.device.type, dtype=dtype, enabled=dtype is not torch.float32):
            return token_logprobs(model(input_ids=ids, use_cache=False).logits[0, :-1], ids[0, 1:])
    finally:
        if hook is not None:
            hook.remove()
