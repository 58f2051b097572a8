"""Which weight matrices of a base a LoRA is put on: names → modules, for any decoder-only model of transformers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lowregret.errors import TargetError
from lowregret.models.experts import Experts, active_experts, fused_experts, roles, weight

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_ROUTER = re.compile(r"^(gate|router|shared_expert_gate)$")
_TAKEN_ALONG = {"mlp": ("mlp", "experts")}
"""Groups that stand for more than themselves: experts are the MLP of their layers."""


@dataclass(frozen=True)
class Matrix:
    """A weight matrix that can carry a LoRA, or one of every expert of a layer."""

    name: str
    """The module's name in the model, such as `model.layers.0.self_attn.q_proj`; of experts, that of their module and
    the matrix, such as `model.layers.0.mlp.experts.gate_proj`."""
    group: str
    """`attention`, `mlp`, `experts`, `router` or `unembedding`."""
    d_in: int
    d_out: int
    experts: Experts | None = None
    """None of a matrix that there is one of."""


def matrices(model: PreTrainedModel) -> list[Matrix]:
    """Every linear map of the base, in the model's own order: those inside a layer, then the unembedding.

    A linear map inside a layer belongs to `attention` when a part of its name says so, else to `mlp`; routed experts
    are `experts`, and what chooses among them is `router`. The gate of a shared expert is left out.
    """
    head = model.get_output_embeddings()
    routed = dict(fused_experts(model))
    routers = set(_routers(model, routed))
    found: list[Matrix] = []
    for name, module in model.named_modules():
        if name in routed:
            found += _expert_matrices(name, module)
        elif name in routers:
            d_out, d_in = module.weight.shape
            found.append(Matrix(name, "router", d_in, d_out))
        elif isinstance(module, nn.Linear | Conv1D):
            if isinstance(module, Conv1D):  # stored transposed
                d_in, d_out = module.weight.shape
            else:
                d_in, d_out = module.in_features, module.out_features
            group = "unembedding" if module is head else _group(name)
            found += [Matrix(name, group, d_in, d_out)] if group else []
    return found


def _group(name: str) -> str | None:
    """The group of a linear map by its name; None when it carries no LoRA."""
    parts = name.split(".")
    if not any(part.isdecimal() for part in parts) or _ROUTER.match(parts[-1]):
        return None
    return "attention" if any(_ATTENTION.search(part) for part in parts) else "mlp"


def _expert_matrices(name: str, module: nn.Module) -> list[Matrix]:
    found = []
    for role in roles(module):
        count, d_out, d_in = weight(module, role).shape
        what = Experts(count, active_experts(name, module), "out" if role == "down_proj" else "in")
        found.append(Matrix(f"{name}.{role}", "experts", d_in, d_out, what))
    return found


def _routers(model: PreTrainedModel, routed: Iterable[str]) -> Iterator[str]:
    """The modules beside experts whose one matrix scores them."""
    for name in routed:
        parent = name.rpartition(".")[0]
        for child, module in model.get_submodule(parent).named_children():
            own = getattr(module, "weight", None)
            if child in ("gate", "router") and isinstance(own, nn.Parameter) and own.ndim == 2:
                yield f"{parent}.{child}"


def find_targets(model: PreTrainedModel, known: Sequence[Matrix], targets: Sequence[str]) -> list[Matrix]:
    """Those of the `known` matrices that `targets` name: groups, or one `re:REGEX` searched for in the module names.

    `mlp` takes the experts along. Raises TargetError when any of them matches nothing, or when the base holds experts
    in a way that is not known.
    """
    if targets[0].startswith("re:"):
        pattern = re.compile(targets[0].removeprefix("re:"))
        found = [matrix for matrix in known if pattern.search(matrix.name)]
        if not found:
            names = sorted({re.sub(r"\.\d+\.", ".*.", matrix.name) for matrix in known})
            raise TargetError(
                f"the target {targets[0]!r} matches no weight matrix of this base. It has: {', '.join(names)}."
            )
        return found
    wanted: list[str] = []
    for target in targets:
        own = _TAKEN_ALONG.get(target, (target,))
        if "experts" in own:
            _refuse_unknown_experts(model, known)
        if not any(matrix.group in own for matrix in known):
            groups = sorted({matrix.group for matrix in known})
            remedy = " `linear` is all without it." if target == "unembedding" else ""
            raise TargetError(
                f"this base has no {target!r} matrix to adapt. It has: {', '.join(groups)}, or use re:REGEX.{remedy}"
            )
        wanted += own
    return [matrix for matrix in known if matrix.group in wanted]


def _refuse_unknown_experts(model: PreTrainedModel, known: Sequence[Matrix]) -> None:
    modules = {matrix.name.rpartition(".")[0] for matrix in known if matrix.experts}
    for name, parameter in model.named_parameters():
        module = name.rpartition(".")[0].removesuffix(".base")
        if parameter.ndim == 3 and "experts" in name and module not in modules:
            raise TargetError(
                f"this base holds its experts in a layout of its own ({name}, shape {tuple(parameter.shape)}), and "
                "adapters on it are not built. Use the target `attention`, or `full`."
            )
