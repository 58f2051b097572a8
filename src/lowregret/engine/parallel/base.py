"""A base of which this process keeps its part: of each matrix (`tensor.py`), and of the experts (`expert.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lowregret.engine.forward.path import PROBE_TOLERANCE
from lowregret.engine.losses import token_logprobs
from lowregret.engine.parallel.autograd import join
from lowregret.engine.parallel.cuts import Cut
from lowregret.engine.parallel.expert import ExpertExchange, connect_experts, cut_experts
from lowregret.engine.parallel.fsdp import reshard
from lowregret.engine.parallel.mesh import Ranks
from lowregret.engine.parallel.parts import BaseCuts
from lowregret.engine.parallel.tensor import OTHERWISE, connect_regions, cut_matrices, find_regions
from lowregret.errors import SpecError

_CUT = "lowregret_cut"
"""What a model is marked with."""


@torch.no_grad()
def cut_base(model: PreTrainedModel, ranks: Ranks) -> tuple[BaseCuts, ExpertExchange | None]:
    """Leave of a base this rank's part, in place; types are to be final. Nothing without tensor and expert ranks.

    A base without weights is left with the shapes of its parts. Returns how it is cut, and what carries tokens to
    experts of other ranks: `connect_base` comes before the first pass. SpecError for what cannot be cut.
    """
    if ranks.tensor.count == ranks.expert.count == 1:
        return BaseCuts(ranks), None
    if hasattr(model, _CUT):
        raise SpecError(f"{type(model).__name__} was cut for another engine already: load the base again.")
    cut = cut_matrices(model, ranks.tensor)
    experts, exchange = cut_experts(model, ranks.expert)
    weights = dict(cut.weights)
    for name, own in experts.items():
        parameters = model.get_submodule(name).named_parameters(recurse=False)
        weights |= {f"{name}.{key}": replace(own, dim=-parameter.ndim) for key, parameter in parameters}
    setattr(model, _CUT, True)
    return BaseCuts(ranks, cut.sides, cut.vocabulary, weights, cut.inside, experts), exchange


@torch.no_grad()
def connect_base(model: PreTrainedModel, cuts: BaseCuts, exchange: ExpertExchange | None, dtype: torch.dtype) -> None:
    """Let the ranks of a base that is cut make between them what it makes whole. Every rank must ask.

    A short row, with products in `dtype`, must get the log-probabilities that it gets where each rank puts together
    the weights of a module when it is its turn: SpecError when it does not.
    """
    if not cuts.any:
        return
    kind = type(model).__name__
    with _put_together(model, cuts):
        before = _answers(model, dtype)
    if cuts.sides:
        connect_regions(model, cuts.ranks.tensor, cuts.vocabulary)
    if exchange is not None:
        connect_experts(model, cuts.experts, exchange)
    try:
        after = _answers(model, dtype, cuts.vocabulary)
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


def train_base(model: PreTrainedModel, cuts: BaseCuts) -> None:
    """SpecError for a base that is cut and cannot train: one with a bias of a rowwise matrix, which one rank adds for
    all."""
    biased = [name for name in cuts.rowwise if getattr(model.get_submodule(name), "bias", None) is not None]
    if biased:
        raise SpecError(
            f"{type(model).__name__}: {biased[0]} has a bias, which full fine-tuning with "
            f"tensor={cuts.ranks.tensor.count} does not compute. {OTHERWISE}"
        )


@contextmanager
def _put_together(model: PreTrainedModel, cuts: BaseCuts) -> Iterator[None]:
    """Inside, a module that is cut has all of its weights while it is called, and no other has."""
    owners = [*(region.name for region in find_regions(model))] if cuts.sides else []
    owners += cuts.experts
    outside = [name.rpartition(".")[0] for name in cuts.weights if not name.startswith(tuple(f"{o}." for o in owners))]
    hooks = []
    for owner in dict.fromkeys([*owners, *outside]):
        module = model.get_submodule(owner)
        taken: dict[tuple[nn.Module, str], nn.Parameter] = {}
        names = [name for name in cuts.weights if name.startswith(f"{owner}.")]
        biases = [f"{name}.bias" for name in cuts.rowwise if name.startswith(f"{owner}.")]
        put = partial(_put, model, cuts, [*names, *biases], taken)
        hooks += [module.register_forward_pre_hook(put), module.register_forward_hook(partial(_take, taken))]
        if owner in cuts.experts and hasattr(module, "num_experts"):
            setattr(module, "num_experts", cuts.experts[owner].whole)  # noqa: B010
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for owner, cut in cuts.experts.items():
            module = model.get_submodule(owner)
            if hasattr(module, "num_experts"):
                setattr(module, "num_experts", cut.size)  # noqa: B010


def _put(
    model: PreTrainedModel,
    cuts: BaseCuts,
    names: Sequence[str],
    taken: dict[tuple[nn.Module, str], nn.Parameter],
    *called: Any,
) -> None:
    for name in names:
        owner, _, key = name.rpartition(".")
        module = model.get_submodule(owner)
        own = getattr(module, key)
        if own is None:
            continue
        taken[module, key] = own
        cut = cuts.weights.get(name)
        whole = cut.joined(own.detach()) if cut else cuts.ranks.tensor.first(own.detach().clone())
        module._parameters[key] = nn.Parameter(whole, requires_grad=False)


def _take(taken: dict[tuple[nn.Module, str], nn.Parameter], *called: Any) -> None:
    for (module, key), own in taken.items():
        module._parameters[key] = own
    taken.clear()


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
        reshard(model)
        if hook is not None:
            hook.remove()
