"""Tensor parallelism: each rank computes all rows with its own part of each matrix (Megatron-LM, arXiv 1909.08053).

A region is a module of which some matrices take its input, and are cut by their outputs (columnwise), and of which one
gives its output, and is cut by its inputs (rowwise): an attention, by heads, or an MLP. What is between needs no more
than its own part. transformers says of its models which matrices are which (`base_model_tp_plan`). The unembedding is
cut by the vocabulary. Norms, embeddings, routers and experts are whole on every rank, which compute them alike; where
embedding and unembedding share their weight, the part of the one is a view of the other.

What a pass of t tokens, of which p are supervised, exchanges, in numbers, each once summed over the ranks:

    forward     regions · t · hidden,  and of the unembedding p for the largest logit and 2 p for target and sum
    backward    inputs of regions with a gradient · t · hidden,  and p · hidden for the unembedding's input

In a dense base there are 2 · layers regions; with adapters on all matrices the first has no gradient at its input. With
layers that are computed twice, what is forward is exchanged again but for the last region of a layer. Adapters exchange
nothing in a pass (`adapters.py`), but for DoRA on rowwise matrices: d_out squares of row norms a policy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lowregret.engine.forward.path import PROBE_TOLERANCE
from lowregret.engine.losses import token_logprobs
from lowregret.engine.parallel.adapters import BaseCuts, Side
from lowregret.engine.parallel.autograd import enter, join, leave
from lowregret.engine.parallel.cuts import Cut
from lowregret.engine.parallel.mesh import Axis, Ranks
from lowregret.errors import SpecError

_SIDES: Mapping[str, Side] = {"colwise": "columnwise", "rowwise": "rowwise"}
"""By transformers' words."""
_OTHERWISE = "Leave tensor out: ranks that compute other rows work with every base."


@dataclass(frozen=True)
class Region:
    """A module that is computed in parts."""

    name: str
    columnwise: tuple[str, ...]
    """Names of its matrices, in the model."""
    rowwise: str


@torch.no_grad()
def cut_base(model: PreTrainedModel, ranks: Ranks, dtype: torch.dtype) -> BaseCuts:
    """Leave of each matrix this rank's part, in place; types are to be final. Nothing happens without tensor ranks.

    A short row, with products in `dtype`, must get the log-probabilities that it got before. SpecError when it does
    not, for a base of which transformers does not say how it is cut, and for more ranks than divide it.
    """
    axis = ranks.tensor
    if axis.count == 1:
        return BaseCuts(ranks)
    regions = find_regions(model)
    _refuse_uneven(model, regions, axis.count)
    before = _answers(model, dtype)
    sides: dict[str, Side] = {}
    for region in regions:
        for name in region.columnwise:
            sides[name] = "columnwise"
            _cut_columnwise(model.get_submodule(name), axis)
        sides[region.rowwise] = "rowwise"
        _cut_rowwise(model.get_submodule(region.rowwise), axis)
        module = model.get_submodule(region.name)
        module.register_forward_pre_hook(_entering(axis), with_kwargs=True)
        module.register_forward_hook(_leaving(axis))
    vocabulary = _cut_unembedding(model, axis)
    if vocabulary is not None:
        head = model.get_output_embeddings()
        sides |= {name: "columnwise" for name, module in model.named_modules() if module is head}
    worst = float((_answers(model, dtype, vocabulary) - before).abs().max())
    if not worst <= PROBE_TOLERANCE[dtype]:
        raise SpecError(
            f"{type(model).__name__}: computed in parts, log-probabilities differ from its own by {worst:.3g} nats, "
            f"so that transformers' plan of it (base_model_tp_plan) is not of this model. {_OTHERWISE}"
        )
    return BaseCuts(ranks, sides, vocabulary)


def refuse_full(ranks: Ranks) -> None:
    """SpecError where a FullFT policy would train matrices that are cut."""
    if ranks.tensor.count > 1:
        raise SpecError(
            f"full fine-tuning is not computed with tensor={ranks.tensor.count}, LoRA is: leave tensor out, and its "
            "weights, gradients and moments lie in parts on all ranks (fsdp)."
        )


def find_regions(model: PreTrainedModel) -> list[Region]:
    """What transformers' plan cuts of the linear maps of a base, by the module that they are in.

    SpecError when there is no plan, and when a module is no region by it.
    """
    config: Any = model.config.get_text_config(decoder=True)
    plan: Mapping[str, str] | None = getattr(config, "base_model_tp_plan", None)
    kind = type(model).__name__
    if not plan:
        raise SpecError(f"{kind}: transformers does not say how it is cut (base_model_tp_plan). {_OTHERWISE}")
    found: dict[str, dict[str, list[str]]] = {}
    for name, module in model.base_model.named_modules():
        style = plan.get(re.sub(r"\.\d+\.", ".*.", name)) if isinstance(module, nn.Linear) else None
        if style is not None:
            whole = f"{model.base_model_prefix}.{name}"
            found.setdefault(whole.rpartition(".")[0], {}).setdefault(style, []).append(whole)
    for name, styles in found.items():
        other = sorted(styles.keys() - _SIDES.keys())
        if other or len(styles.get("rowwise", ())) != 1 or "colwise" not in styles:
            how = f"a matrix of it is {other[0]}" if other else "it does not go from columnwise to one rowwise matrix"
            raise SpecError(f"{kind}: {name} cannot be computed in parts: by transformers' plan {how}. {_OTHERWISE}")
    if not found:
        raise SpecError(f"{kind}: transformers' plan of it names no matrix that it has. {_OTHERWISE}")
    return [Region(name, tuple(styles["colwise"]), styles["rowwise"][0]) for name, styles in found.items()]


def _refuse_uneven(model: PreTrainedModel, regions: list[Region], count: int) -> None:
    """SpecError that names what a number of ranks does not divide, and the numbers that divide all."""
    config: Any = model.config.get_text_config(decoder=True)
    facts: dict[str, int] = {}
    if any(re.search("attn|attention", region.name, re.IGNORECASE) for region in regions):
        heads = int(config.num_attention_heads)
        grouped = getattr(config, "num_key_value_heads", None)
        facts = {"attention heads": heads, "key/value heads": int(grouped or heads)}
    widths = {
        width
        for region in regions
        for name in region.columnwise
        for width in [int(model.get_submodule(name).out_features)]  # type: ignore[arg-type]
    }
    facts |= {f"outputs of a matrix ({width:,})": width for width in sorted(widths)}
    uneven = [name for name, number in facts.items() if number % count]
    if uneven:
        common = math.gcd(*facts.values())
        works = [str(number) for number in range(1, common + 1) if common % number == 0]
        said = ", ".join(f"{number:,} {name}" if "heads" in name else f"the {name}" for name, number in facts.items())
        raise SpecError(
            f"{type(model).__name__}: {count} tensor ranks do not divide its {uneven[0]} (it has {said}). "
            f"Ask for tensor={' or '.join(works)}."
        )


def _entering(axis: Axis) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (enter(args[0], axis), *args[1:]), kwargs
        first = next(iter(kwargs))
        name = "hidden_states" if "hidden_states" in kwargs else first
        return args, {**kwargs, name: enter(kwargs[name], axis)}

    return hook


def _leaving(axis: Axis) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return (leave(output[0], axis), *output[1:]) if isinstance(output, tuple) else leave(output, axis)

    return hook


def _cut_columnwise(module: Any, axis: Axis) -> None:
    cut = Cut(axis, -2, module.out_features)
    module.weight = _own(cut.own(module.weight))
    if module.bias is not None:
        module.bias = _own(Cut(axis, -1, cut.whole).own(module.bias))
    module.out_features = cut.size


def _cut_rowwise(module: Any, axis: Axis) -> None:
    """A bias is added once: it is zero on all ranks but the first."""
    cut = Cut(axis, -1, module.in_features)
    module.weight = _own(cut.own(module.weight))
    if module.bias is not None and axis.rank:
        module.bias = _own(torch.zeros_like(module.bias))
    module.in_features = cut.size


def _cut_unembedding(model: PreTrainedModel, axis: Axis) -> Cut | None:
    """The cut of its outputs; None when it is no plain linear map, and stays whole."""
    head: Any = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        return None
    cut = Cut(axis, -1, head.out_features)
    part = Cut(axis, -2, cut.whole).own(head.weight)
    embedding: Any = model.get_input_embeddings()
    tied = embedding.weight is head.weight
    head.weight = nn.Parameter(part.detach(), requires_grad=False) if tied else _own(part)
    if head.bias is not None:
        head.bias = _own(cut.own(head.bias))
    head.out_features = cut.size
    return cut


def _own(part: Tensor) -> nn.Parameter:
    """A frozen parameter with memory of its own, so that the whole can go."""
    return nn.Parameter(part.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)


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
    except (RuntimeError, ValueError) as error:
        if vocabulary is None:
            raise
        raise SpecError(
            f"{type(model).__name__}: its code does not run in parts ({str(error).splitlines()[0]}). {_OTHERWISE}"
        ) from error
    finally:
        if hook is not None:
            hook.remove()
