"""LoRAs on experts between an engine and the files of PEFT and vLLM, and into the base's own weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lowregret.engine.engine import Engine
from lowregret.engine.policy import LoRAPolicy
from lowregret.errors import ModelError
from lowregret.lora.formats.experts import ExpertAdapter, from_each, from_peft, fused, stored_names, to_each, to_peft
from lowregret.lora.formats.peft import SavedAdapter
from lowregret.lora.formats.selection import CONFIG_NAME, rank_and_alpha
from lowregret.lora.moe.experts import LoRAExperts
from lowregret.lora.weights import LoRAWeights
from lowregret.models.experts import roles, weight
from lowregret.models.targets import Matrix
from lowregret.spec.conventions import CONVENTIONS, Convention, expert_rank

_TAKEN_FOR_EXPERTS = ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")


def experts_of(model: PreTrainedModel, name: str) -> Any:
    """The base's own module of experts at a place, adapted or not."""
    module = model.get_submodule(name)
    return module.base if isinstance(module, LoRAExperts) else module


def by_module(policy: LoRAPolicy, loras: Mapping[str, LoRAWeights]) -> dict[str, dict[str, ExpertAdapter]]:
    """{experts' module: {matrix: LoRA}} of a policy."""
    found: dict[str, dict[str, ExpertAdapter]] = {}
    for matrix in policy.matrices:
        if matrix.experts:
            name, _, role = matrix.name.rpartition(".")
            adapter = loras[matrix.name]
            found.setdefault(name, {})[role] = ExpertAdapter.of_all(adapter.a, adapter.b, adapter.scale)
    return found


def peft_experts(
    engine: Engine, policy: LoRAPolicy, loras: Mapping[str, LoRAWeights]
) -> tuple[dict[str, SavedAdapter], dict[str, Any]]:
    """({module: A and B}, fields of adapter_config.json) of what PEFT calls target parameters: experts and routers.

    `loras` are the policy's, by matrix, all of each.
    """
    rslora = policy.method.scaling == "alpha/sqrt(r)"
    saved: dict[str, SavedAdapter] = {}
    named: list[str] = []
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for name, adapters in by_module(policy, loras).items():
        tensors = fused(experts_of(engine.model, name), adapters)
        for place, a, b in to_peft(name, tensors):
            saved[place] = SavedAdapter(a.contiguous(), b.contiguous())
        for stored, lora in tensors.items():
            named.append(f"{name}.{stored}")
            ranks[f"experts.{stored}"] = lora.rank
            alphas[f"experts.{stored}"] = lora.scale * (math.sqrt(lora.rank) if rslora else lora.rank)
    every = [
        f"{name}.{stored}"
        for name in {matrix.name.rpartition(".")[0]: None for matrix in engine.matrices if matrix.experts}
        for stored in stored_names(experts_of(engine.model, name))
    ]
    others = [f"{matrix.name}.weight" for matrix in policy.matrices if as_parameter(engine, policy, matrix)]
    fields: dict[str, Any] = {}
    if named or others:
        short = sorted({".".join(name.split(".")[-3:]) for name in named})
        exact = sorted(name for name in every if name.endswith(tuple(short))) == sorted(named) if named else False
        fields["target_parameters"] = (short if exact else named) + others
    if ranks:
        fields |= {"rank_pattern": ranks, "alpha_pattern": {key: _whole(alpha) for key, alpha in alphas.items()}}
    return saved, fields


def as_parameter(engine: Engine, policy: LoRAPolicy, matrix: Matrix) -> bool:
    """Whether PEFT must be given a plain matrix of a mixture as a parameter, not as a module.

    A router is no linear module there. And what is named like experts of old (shared experts, dense layers) would be
    taken for them: PEFT rewrites such target modules for several families. DoRA it has on modules only.
    """
    if matrix.experts or policy.method.dora or not any(other.experts for other in engine.matrices):
        return False
    return matrix.group == "router" or matrix.name.rpartition(".")[2] in _TAKEN_FOR_EXPERTS


def expert_loras(
    engine: Engine, policy: LoRAPolicy, loras: Mapping[str, LoRAWeights]
) -> tuple[dict[str, SavedAdapter], dict[str, Any]]:
    """The same as one plain LoRA for each matrix of each expert, all at the method's rank and scale."""
    saved: dict[str, SavedAdapter] = {}
    targets: set[str] = set()
    for name, adapters in by_module(policy, loras).items():
        module = experts_of(engine.model, name)
        saved |= {
            key: SavedAdapter(a, b) for key, a, b in to_each(name, module, adapters, policy.method.rank, policy.scale)
        }
        targets |= set(roles(module))
    return saved, {"target_modules": targets} if targets else {}


@dataclass(frozen=True)
class SavedExperts:
    """Experts' LoRAs out of a file, fitted to a base."""

    plain: dict[str, SavedAdapter]
    """What is left: plain matrices."""
    experts: dict[str, ExpertAdapter]
    """By matrix."""
    convention: Convention


def read_experts(
    model: PreTrainedModel,
    matrices: Sequence[Matrix],
    folder: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, SavedAdapter],
) -> SavedExperts:
    """Tell the experts' LoRAs from the plain ones; ModelError when they do not fit the base."""
    known = {matrix.name: matrix for matrix in matrices if matrix.experts}
    modules = {name.rpartition(".")[0]: None for name in known}
    left = dict(weights)
    if not from_each(list(left)) and not any(_nested(place, name) for place in left for name in modules):
        return SavedExperts(left, {}, "per-active")
    scale = _scale(folder, config)
    found: dict[str, ExpertAdapter] = {}
    for name in modules:
        own = {place: left.pop(place) for place in list(left) if _nested(place, name)}
        if own:
            pairs = {place: (saved.a, saved.b) for place, saved in own.items()}
            parts = from_peft(name, experts_of(model, name), config, pairs, str(folder))
            found |= {f"{name}.{role}": lora for role, lora in parts.items()}
    if "r" in config and "lora_alpha" in config:
        scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
        for (module, role), names in from_each(list(left)).items():
            for name in names.values():
                if rank_and_alpha(config, name) != (config["r"], config["lora_alpha"]):
                    raise ModelError(
                        f"{folder}: rank_pattern or alpha_pattern gives {name} a rank or an alpha of its own, which is "
                        "not supported on experts one by one. Save the adapter at one rank and one alpha."
                    )
            found |= _stacked(
                folder, known, f"{module}.{role}", {e: left.pop(name) for e, name in names.items()}, scale
            )
    return _fitted(folder, config, known, left, {name: _trimmed(lora) for name, lora in found.items()})


def _scale(folder: Path, config: Mapping[str, Any]) -> float:
    """alpha / r, or by its root; ModelError when they are no numbers for that."""
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1:
        raise ModelError(f"{folder / CONFIG_NAME}: r is {rank!r} and lora_alpha is {alpha!r}; they must be numbers.")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _fitted(
    folder: Path,
    config: Mapping[str, Any],
    known: Mapping[str, Matrix],
    plain: dict[str, SavedAdapter],
    found: Mapping[str, ExpertAdapter],
) -> SavedExperts:
    """The convention with the lowest rank that holds them all, and the LoRAs at its rank and scale."""
    first = known[next(iter(found))]
    assert first.experts is not None
    counts = {"active": first.experts.active, "total": first.experts.total}
    most = max(lora.rank for lora in found.values())
    outer = [_outer(known[name], lora) for name, lora in found.items()]
    # Zeros, such as a B that is new, are no sign of a factor in common.
    shared = all(bool((factor == factor[:1]).all()) for factor in outer) and any(bool(f.any()) for f in outer)
    ranks = {name: expert_rank(config["r"], name, **counts) for name in CONVENTIONS}
    fits = [(rank, name) for name, rank in ranks.items() if rank >= most and (name == "shared-outer") == shared]
    if not fits:
        raise ModelError(f"{folder}: experts have rank {most}, above the {config['r']} that the configuration gives.")
    rank, convention = min(fits, key=lambda fit: fit[0])
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return SavedExperts(plain, {name: _widened(lora, rank, scale) for name, lora in found.items()}, convention)


def copy_experts(policy: LoRAPolicy, read: SavedExperts) -> None:
    """Put what was read into a policy that was made for it."""
    for name, lora in read.experts.items():
        for kind, value in (("lora_A", lora.a), ("lora_B", lora.b)):
            own = policy.weights[f"{name}.{kind}"]
            own.copy_(value[: len(own)])


def merge_experts(engine: Engine, matrix: Matrix, adapter: LoRAWeights) -> None:
    """Add a LoRA's products to the base's fused weights, in place."""
    name, _, role = matrix.name.rpartition(".")
    whole = weight(experts_of(engine.model, name), role)
    whole += adapter.delta().to(whole.dtype)


def _stacked(
    folder: Path, known: Mapping[str, Matrix], name: str, found: Mapping[int, SavedAdapter], scale: float
) -> dict[str, ExpertAdapter]:
    matrix = known.get(name)
    if matrix is None or matrix.experts is None:
        raise ModelError(f"{folder}: adapts experts as {name}, which this base does not have.")
    if sorted(found) != list(range(matrix.experts.count)):
        raise ModelError(f"{folder}: adapts {len(found)} experts of {name}; this base has {matrix.experts.count}.")
    shapes = {(tuple(saved.a.shape), tuple(saved.b.shape)) for saved in found.values()}
    (rank, d_in), (d_out, other) = next(iter(shapes))
    if len(shapes) > 1 or (d_in, d_out, rank) != (matrix.d_in, matrix.d_out, other):
        raise ModelError(
            f"{folder}: the experts of {name} have A and B of {sorted(shapes)[:2]}; they must be alike, and of this "
            f"base's {matrix.d_out} × {matrix.d_in}."
        )
    ordered = [found[expert] for expert in sorted(found)]
    return {name: ExpertAdapter(torch.stack([s.a for s in ordered]), torch.stack([s.b for s in ordered]), scale)}


def _nested(place: str, name: str) -> bool:
    """Whether PEFT means a tensor of the module `name` by this place."""
    return place.startswith(name) and not place.removeprefix(name).replace(".base_layer", "")


def _trimmed(lora: ExpertAdapter) -> ExpertAdapter:
    """Without the ranks at the end that add nothing: those of zeros in every A, or in every B and A."""
    used = lora.a.abs().amax((0, 2)).nonzero()
    rank = int(used.max()) + 1 if len(used) else 1
    return ExpertAdapter(lora.a[:, :rank], lora.b[..., :rank], lora.scale)


def _widened(lora: ExpertAdapter, rank: int, scale: float) -> ExpertAdapter:
    """The same at a rank and a scale: with zeros, and with the scale's difference in B."""
    more = rank - lora.rank
    b = lora.b if math.isclose(lora.scale, scale) else lora.b * (lora.scale / scale)
    pad = torch.nn.functional.pad
    return ExpertAdapter(pad(lora.a, (0, 0, 0, more)), pad(b, (0, more)), scale)


def _outer(matrix: Matrix, lora: ExpertAdapter) -> Tensor:
    """The factor on the side of the hidden states."""
    assert matrix.experts is not None
    return lora.a if matrix.experts.hidden == "in" else lora.b


def _whole(value: float) -> float | int:
    return round(value) if math.isclose(value, round(value)) else value
