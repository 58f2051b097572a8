"""How many parameters a LoRA has, by target, rank and mixture-of-experts convention. Torch-free.

A matrix of shape (d_out, d_in) costs rank × (d_in + d_out); a fused one (Phi-3's qkv_proj) counts as the one that
it is. The embedding carries no adapter, and the router only when it is named (SCIENCE 4).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from lowregret.errors import SpecError, TargetError, did_you_mean
from lowregret.plan.shapes.weights import Shapes, Weight
from lowregret.spec.conventions import CONVENTIONS, Convention, expert_rank
from lowregret.spec.method import TARGET_GROUPS, parse_targets

_OUTWARD = re.compile(r"\bdown_proj\b")
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def ranks_of(shapes: Shapes, rank: int, convention: Convention = "per-active") -> int:
    """The rank that one expert's matrices get: the division rounds down, and the result is at least 1."""
    if convention not in CONVENTIONS:
        raise SpecError(f"unknown convention {convention!r}. {did_you_mean(convention, CONVENTIONS)}")
    return expert_rank(rank, convention, active=shapes.active_experts, total=shapes.experts)


def lora_parameters(
    shapes: Shapes,
    rank: int,
    targets: Iterable[str] = "all",
    convention: Convention = "per-active",
) -> dict[str, int]:
    """Trainable parameters under `attention`, `mlp`, `experts` and `unembedding`, 0 where nothing is adapted; under
    `router` too when that is adapted.

    `targets` are those of `LoRA.targets`: groups, `all`, `linear`, or one `re:REGEX` searched for in the module names.
    `mlp` takes the experts along, which are the MLP of their layers; `experts` alone leaves shared experts and dense
    layers out. TargetError: a target that matches nothing in this model.
    """
    each = ranks_of(shapes, rank, convention)
    counts = dict.fromkeys(TARGET_GROUPS, 0)
    for weight, share in chosen(shapes, targets):
        if weight.kind == "experts":
            counts["experts"] += round(share * _expert_parameters(shapes, weight, each, convention))
        else:
            counts[weight.kind] += round(share * rank * weight.copies * sum(weight.shape))
    return {group: count for group, count in counts.items() if count or group != "router"}


def adapter_bytes(parameters: int, dtype: str = "float32") -> int:
    """Size on disk of an adapter of so many parameters, without the header of its safetensors file (some kB)."""
    if dtype not in _BYTES:
        raise SpecError(f"unknown dtype {dtype!r}. {did_you_mean(dtype, _BYTES)}")
    return parameters * _BYTES[dtype]


def adaptable(shapes: Shapes) -> Iterator[Weight]:
    """The matrices that can carry a LoRA."""
    matrices = (weight for weight in shapes.weights if weight.kind in TARGET_GROUPS and len(weight.shape) == 2)
    return (weight for weight in matrices if not weight.name.endswith("shared_expert_gate.weight"))


def _expert_parameters(shapes: Shapes, weight: Weight, rank: int, convention: Convention) -> int:
    d_out, d_in = weight.shape
    if convention != "shared-outer":
        return rank * weight.copies * (d_in + d_out)
    outer, inner = (d_out, d_in) if _OUTWARD.search(weight.name) else (d_in, d_out)
    layers = weight.copies // shapes.experts
    return rank * (layers * outer + weight.copies * inner)


def chosen(shapes: Shapes, targets: Iterable[str]) -> Iterator[tuple[Weight, float]]:
    """The weights that `targets` name, and which share of each one's copies; SpecError for a target unknown."""
    try:
        targets = parse_targets(targets)
    except ValueError as error:
        raise SpecError(str(error)) from None
    if len(targets) == 1 and targets[0].startswith("re:"):
        yield from _matching(shapes, targets[0])
        return
    groups: list[str] = []
    for target in targets:
        wanted = ("mlp", "experts") if target == "mlp" else (target,)
        groups += wanted
        if not any(weight.kind in wanted for weight in adaptable(shapes)):
            held = sorted({weight.kind for weight in adaptable(shapes)})
            raise TargetError(f"{shapes.name}: has no {target!r} matrix to adapt. It has: {', '.join(held)}.")
    yield from ((weight, 1.0) for weight in adaptable(shapes) if weight.kind in groups)


def _matching(shapes: Shapes, target: str) -> Iterator[tuple[Weight, float]]:
    pattern = re.compile(target.removeprefix("re:"))
    found = False
    for weight in adaptable(shapes):
        # The experts of a layer are one module to a pattern.
        module = weight.name.removesuffix(".weight").replace("experts.*", "experts")
        names = [module.replace("*", str(layer)) for layer in weight.layers] or [module]
        hits = sum(bool(pattern.search(name)) for name in names)
        if hits:
            found = True
            yield weight, hits / len(names)
    if not found:
        names = sorted({weight.name.removesuffix(".weight") for weight in adaptable(shapes)})
        raise TargetError(f"{shapes.name}: the target {target!r} matches no weight matrix. It has: {', '.join(names)}.")
