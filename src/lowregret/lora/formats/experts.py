"""Adapters on fused experts as others keep them: PEFT's `target_parameters`, and one LoRA for each expert (vLLM).

PEFT puts one LoRA on a whole stored tensor. Where that holds gate and up, ours, which has an A and a B for each, is one
of twice the rank: A = [A_gate; A_up], B block by block with zeros beside. PEFT keeps A as [experts · rank, d_in] and B
as [d_out, rank · experts] (experts innermost), under the module's name for the last of its adapted tensors, and under
one `.base_layer` more for each before it. vLLM reads that for families that it holds as three-dimensional (gpt-oss),
and for the others one plain LoRA for each matrix of each expert, all of one rank.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lowregret.errors import ModelError
from lowregret.lora.formats.selection import means, rank_and_alpha
from lowregret.models.experts import columns, roles, weight

_EACH = re.compile(r"^(?P<module>.+\.experts)\.(?P<expert>\d+)\.(?P<role>gate_proj|up_proj|down_proj)$")


@dataclass(frozen=True)
class ExpertAdapter:
    """One LoRA on a matrix, or on a stored tensor, of every expert."""

    a: Float[Tensor, "experts rank d_in"]
    b: Float[Tensor, "experts d_out rank"]
    scale: float

    @property
    def rank(self) -> int:
        """Of each expert."""
        return self.a.shape[1]

    @classmethod
    def of_all(cls, a: Tensor, b: Tensor, scale: float) -> ExpertAdapter:
        """With a factor that the experts share written out for each."""
        experts = max(len(a), len(b))
        return cls(a.detach().expand(experts, -1, -1), b.detach().expand(experts, -1, -1), scale)


def stored_names(module: Any) -> tuple[str, ...]:
    """The tensors that hold a module's matrices, in its own order."""
    names = {"gate_up_proj" if module.has_gate else "up_proj", "down_proj"}
    return tuple(name for name, _ in module.named_parameters(recurse=False) if name in names)


def fused(module: Any, adapters: Mapping[str, ExpertAdapter]) -> dict[str, ExpertAdapter]:
    """{matrix: LoRA} → {stored tensor: LoRA}. A matrix of gate and up that has none gets zeros."""
    found = {}
    for name in stored_names(module):
        own = [role for role in roles(module) if role in adapters and (role == "down_proj") == (name == "down_proj")]
        if not own:
            continue
        if name != "gate_up_proj":
            found[name] = adapters[own[0]]
            continue
        outputs = getattr(module, name).shape[1 if not module.is_transposed else 2]
        a = torch.cat([adapters[role].a for role in own], 1)
        b = a.new_zeros(len(a), outputs, a.shape[1])
        start = 0
        for role in own:
            stop = start + adapters[role].rank
            b[:, columns(module, role, outputs), start:stop] = adapters[role].b
            start = stop
        found[name] = ExpertAdapter(a, b, adapters[own[0]].scale)
    return found


def split(module: Any, name: str, lora: ExpertAdapter) -> dict[str, ExpertAdapter]:
    """{stored tensor: LoRA} → {matrix: LoRA}: two of half the rank if that is what it is, else two with the same A."""
    if name != "gate_up_proj":
        return {name: lora}
    outputs, half = lora.b.shape[1], lora.rank // 2
    gate, up = (lora.b[:, columns(module, role, outputs)] for role in ("gate_proj", "up_proj"))
    if lora.rank % 2 == 0 and not gate[..., half:].any() and not up[..., :half].any():
        return {
            "gate_proj": ExpertAdapter(lora.a[:, :half], gate[..., :half], lora.scale),
            "up_proj": ExpertAdapter(lora.a[:, half:], up[..., half:], lora.scale),
        }
    return {"gate_proj": ExpertAdapter(lora.a, gate, lora.scale), "up_proj": ExpertAdapter(lora.a, up, lora.scale)}


def to_peft(name: str, tensors: Mapping[str, ExpertAdapter]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(module, A, B) of a module's stored tensors, as PEFT nests and flattens them."""
    for number, lora in enumerate(tensors.values()):
        place = name + ".base_layer" * (len(tensors) - 1 - number)
        yield place, lora.a.flatten(0, 1), lora.b.permute(1, 2, 0).flatten(1)


def from_peft(
    name: str, module: Any, config: Mapping[str, Any], found: Mapping[str, tuple[Tensor, Tensor]], file: str
) -> dict[str, ExpertAdapter]:
    """What `to_peft` gave, back; ModelError when it does not fit the module."""
    asked = config.get("target_parameters") or []
    wanted = [stored for stored in stored_names(module) if any(means(key, f"{name}.{stored}") for key in asked)]
    places = [name + ".base_layer" * (len(wanted) - 1 - number) for number in range(len(wanted))]
    if set(places) != set(found):
        raise ModelError(
            f"{file}: adapts {', '.join(sorted(found))}, but target_parameters names "
            f"{', '.join(wanted) or 'nothing'} of {name}."
        )
    tensors: dict[str, ExpertAdapter] = {}
    for stored, place in zip(wanted, places, strict=True):
        a, b = found[place]
        experts = module.down_proj.shape[0]
        outer, inner = getattr(module, stored).shape[1:]
        d_out, d_in = (inner, outer) if module.is_transposed else (outer, inner)
        rank = len(a) // experts
        if a.shape != (experts * rank, d_in) or b.shape != (d_out, rank * experts):
            raise ModelError(
                f"{file}: {place} has A {tuple(a.shape)} and B {tuple(b.shape)}; {name}.{stored} has {experts} experts "
                f"of {d_out} × {d_in}."
            )
        by, alpha = rank_and_alpha(config, f"{name}.{stored}")
        if by != rank:
            raise ModelError(f"{file}: {name}.{stored} has rank {rank}, but its configuration says {by}.")
        scale = alpha / (math.sqrt(by) if config.get("use_rslora") else by)
        lora = ExpertAdapter(a.view(experts, rank, d_in), b.view(d_out, rank, experts).permute(2, 0, 1), scale)
        tensors |= split(module, stored, lora)
    return tensors


def to_each(
    name: str, module: Any, adapters: Mapping[str, ExpertAdapter], rank: int, scale: float
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(`module.expert.matrix`, A, B) of every matrix of every expert, at one rank and one scale.

    Ranks that are missing are zeros, and so is the LoRA of a matrix that has none: a server that packs experts reads
    all of them.
    """
    like = next(iter(adapters.values()))
    for role in roles(module):
        own = adapters.get(role)
        d_out, d_in = weight(module, role).shape[1:]
        for expert in range(len(like.a)):
            a, b = like.a.new_zeros(rank, d_in), like.b.new_zeros(d_out, rank)
            if own is not None:
                a[: own.rank] = own.a[expert]
                b[:, : own.rank] = own.b[expert] * (own.scale / scale)
            yield f"{name}.{expert}.{role}", a, b


def from_each(names: Sequence[str]) -> dict[tuple[str, str], dict[int, str]]:
    """{(experts' module, matrix): {expert: name}} of the names that are one expert's."""
    found: dict[tuple[str, str], dict[int, str]] = {}
    for name in names:
        if match := _EACH.match(name):
            found.setdefault((match["module"], match["role"]), {})[int(match["expert"])] = name
    return found
