"""Tensor parallelism: each rank computes all rows with its own part of each matrix (Megatron-LM, arXiv 1909.08053).

A region is a module of which some matrices take its input, and are cut by their outputs (columnwise), and of which one
gives its output, and is cut by its inputs (rowwise): an attention, by heads, or an MLP. What is between needs no more
than its own part. transformers says of its models which matrices are which (`base_model_tp_plan`). The unembedding is
cut by the vocabulary. Norms, embeddings, routers and experts are whole on every rank, which compute them alike; where
embedding and unembedding share their weight, the part of the one is a view of the other.

What a pass of t tokens, of which p are supervised, exchanges, in numbers, each once summed over the ranks:

    forward     regions · t · hidden,  and of the unembedding p for the largest logit and 2 p for target and sum
    backward    inputs of regions with a gradient · t · hidden,  and p · hidden for the unembedding's input

and one number more, by which all know whether each had memory. In a dense base there are 2 · layers regions; with
adapters on all matrices the first has no gradient at its input. Where layers are computed twice, what is forward is
exchanged again backward, but for the last region of each layer. Adapters exchange nothing in a pass (`parts.py`),
but for DoRA: of a rowwise matrix d_out squares of row norms a policy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from lowregret.engine.parallel.autograd import enter, leave
from lowregret.engine.parallel.cuts import Cut
from lowregret.engine.parallel.mesh import Axis
from lowregret.engine.parallel.parts import Side
from lowregret.errors import SpecError

_SIDES: Mapping[str, Side] = {"colwise": "columnwise", "rowwise": "rowwise"}
"""By transformers' words."""
OTHERWISE = "Leave tensor out: ranks that compute other rows work with every base."


@dataclass(frozen=True)
class Region:
    """A module that is computed in parts."""

    name: str
    columnwise: tuple[str, ...]
    """Names of its matrices, in the model."""
    rowwise: str


@dataclass(frozen=True)
class CutMatrices:
    """Which matrices of a base are cut, and how."""

    sides: dict[str, Side] = field(default_factory=dict)
    """By matrix."""
    vocabulary: Cut | None = None
    """Of the unembedding's outputs; None when it is whole."""
    weights: dict[str, Cut] = field(default_factory=dict)
    """By weight and bias; not of an unembedding whose weight is a part of the embedding."""
    inside: frozenset[str] = frozenset()
    """Modules in regions that are whole."""


@final
class SharedRows(nn.Linear):
    """An unembedding that is a part of the embedding: some of its rows, as they are at the time.

    Its gradient is one of the embedding's, of which every rank needs those of all rows: where the base trains,
    vocabulary · hidden numbers more are summed over the ranks in a pass.
    """

    def __init__(self, embedding: Any, cut: Cut, bias: Any) -> None:
        nn.Module.__init__(self)
        rows = replace(cut, dim=-2)
        self._shared = (embedding, rows)  # in a tuple, for it is no module of this one
        self.in_features, self.out_features = int(embedding.weight.shape[1]), rows.size
        self.bias = bias

    @property
    def weight(self) -> Float[Tensor, "rows hidden"]:  # type: ignore[override]
        embedding, rows = self._shared
        whole: Any = embedding.weight
        return rows.own(enter(whole, rows.axis) if whole.requires_grad else whole)


@torch.no_grad()
def cut_matrices(model: PreTrainedModel, axis: Axis) -> CutMatrices:
    """Leave of each matrix this rank's part, in place; types are to be final. Nothing without tensor ranks.

    An unembedding that is the embedding stays whole until it is connected. SpecError for a base of which transformers
    does not say how it is cut, and for more ranks than divide it.
    """
    if axis.count == 1:
        return CutMatrices()
    regions = find_regions(model)
    _refuse_uneven(model, regions, axis.count)
    sides: dict[str, Side] = {}
    weights: dict[str, Cut] = {}
    inside: set[str] = set()
    for region in regions:
        for name in region.columnwise:
            sides[name] = "columnwise"
            weights |= {f"{name}.{key}": cut for key, cut in _cut_columnwise(model.get_submodule(name), axis).items()}
        sides[region.rowwise] = "rowwise"
        weights[f"{region.rowwise}.weight"] = _cut_rowwise(model.get_submodule(region.rowwise), axis)
        module = model.get_submodule(region.name)
        inside |= {f"{region.name}.{name}" for name, _ in module.named_modules()} - sides.keys()
    head: Any = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        return CutMatrices(sides, None, weights, frozenset(inside))
    (name,) = (name for name, module in model.named_modules() if module is head)
    vocabulary = Cut(axis, -1, head.out_features)
    embedding: Any = model.get_input_embeddings()
    if embedding.weight is not head.weight:
        weights |= {f"{name}.{key}": cut for key, cut in _cut_columnwise(head, axis).items()}
    return CutMatrices({**sides, name: "columnwise"}, vocabulary, weights, frozenset(inside))


def connect_regions(model: PreTrainedModel, axis: Axis, vocabulary: Cut | None) -> None:
    """Let ranks add up what they make in parts, of matrices that `cut_matrices` has cut."""
    for region in find_regions(model):
        module = model.get_submodule(region.name)
        module.register_forward_pre_hook(_entering(axis), with_kwargs=True)
        module.register_forward_hook(_leaving(axis))
    head: Any = model.get_output_embeddings()
    embedding: Any = model.get_input_embeddings()
    if vocabulary is not None and head.weight is embedding.weight:
        model.set_output_embeddings(SharedRows(embedding, vocabulary, head.bias))


def find_regions(model: PreTrainedModel) -> list[Region]:
    """What transformers' plan cuts of the linear maps of a base, by the module that they are in.

    SpecError when there is no plan, and when a module is no region by it.
    """
    config: Any = model.config.get_text_config(decoder=True)
    plan: Mapping[str, str] | None = getattr(config, "base_model_tp_plan", None)
    kind = type(model).__name__
    if not plan:
        raise SpecError(f"{kind}: transformers does not say how it is cut (base_model_tp_plan). {OTHERWISE}")
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
            raise SpecError(f"{kind}: {name} cannot be computed in parts: by transformers' plan {how}. {OTHERWISE}")
    if not found:
        raise SpecError(f"{kind}: transformers' plan of it names no matrix that it has. {OTHERWISE}")
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
    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
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


def _cut_columnwise(module: Any, axis: Axis) -> dict[str, Cut]:
    cuts = {"weight": Cut(axis, -2, module.out_features)}
    if module.bias is not None:
        cuts["bias"] = Cut(axis, -1, module.out_features)
    for key, cut in cuts.items():
        setattr(module, key, _own(cut.own(getattr(module, key))))
    module.out_features = cuts["weight"].size
    return cuts


def _cut_rowwise(module: Any, axis: Axis) -> Cut:
    """A bias is added once: it is zero on all ranks but the first."""
    cut = Cut(axis, -1, module.in_features)
    module.weight = _own(cut.own(module.weight))
    if module.bias is not None and axis.rank:
        module.bias = _own(torch.zeros_like(module.bias))
    module.in_features = cut.size
    return cut


def _own(part: Tensor) -> nn.Parameter:
    """A frozen parameter with memory of its own, so that the whole can go."""
    return nn.Parameter(part.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)
