"""Which weight matrices of a base a LoRA is put on: names → modules, for any decoder-only model of transformers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lowregret.errors import TargetError

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_ROUTER = re.compile(r"^(gate|router|shared_expert_gate)$")


@dataclass(frozen=True)
class Matrix:
    """A weight matrix that can carry a LoRA."""

    name: str
    """The module's name in the model, such as `model.layers.0.self_attn.q_proj`."""
    group: str
    """`attention`, `mlp` or `unembedding`."""
    d_in: int
    d_out: int


def matrices(model: PreTrainedModel) -> list[Matrix]:
    """Every linear map of the base, in the model's own order: those inside a layer, then the unembedding.

    A linear map inside a layer belongs to `attention` when a part of its name says so, else to `mlp`; routers are left
    out.
    """
    head = model.get_output_embeddings()
    found: list[Matrix] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        d_out, d_in = module.weight.shape
        if isinstance(module, Conv1D):  # stored transposed
            d_in, d_out = d_out, d_in
        if module is head:
            found.append(Matrix(name, "unembedding", d_in, d_out))
            continue
        parts = name.split(".")
        if not any(part.isdecimal() for part in parts) or _ROUTER.match(parts[-1]):
            continue
        group = "attention" if any(_ATTENTION.search(part) for part in parts) else "mlp"
        found.append(Matrix(name, group, d_in, d_out))
    return found


def find_targets(model: PreTrainedModel, known: Sequence[Matrix], targets: Sequence[str]) -> list[Matrix]:
    """Those of the `known` matrices that `targets` name: groups, or one `re:REGEX` searched for in the module names.

    Raises TargetError when any of them matches nothing, or when the MLPs are experts fused into one tensor.
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
    if "mlp" in targets:
        _refuse_fused_experts(model)
    for target in targets:
        if not any(matrix.group == target for matrix in known):
            groups = sorted({matrix.group for matrix in known})
            raise TargetError(
                f"this base has no {target!r} matrix to adapt. It has: {', '.join(groups)}, or use re:REGEX."
            )
    return [matrix for matrix in known if matrix.group in targets]


def _refuse_fused_experts(model: PreTrainedModel) -> None:
    for name, parameter in model.named_parameters():
        if parameter.ndim == 3 and "experts" in name:
            raise TargetError(
                f"this base is a mixture of experts with fused weights ({name}, shape {tuple(parameter.shape)}); "
                "adapters on fused experts are not built yet. Use the target `attention`, or `full`."
            )
