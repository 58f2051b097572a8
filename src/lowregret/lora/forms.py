"""The forms that an adapter takes, by the kind of module that carries it: `FORMS`.

An entry says which matrices of a base it is for, which module takes the place of the base's own, how A and B start
there, and which variants of LoRA are built. The laws (tests/laws/test_adapters.py) run over the entries, their variants
and `INITIALISATIONS`, on every small base that has a place for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lowregret.errors import TargetError
from lowregret.lora.init import INITIALISATIONS, Start, expert_start, initial
from lowregret.lora.linear import LoRALinear
from lowregret.lora.moe.experts import LoRAExperts
from lowregret.lora.moe.router import LoRARouter
from lowregret.lora.routing import PolicyRouting
from lowregret.models.targets import Matrix
from lowregret.spec import LoRA
from lowregret.spec.conventions import CONVENTIONS

Carrier = LoRALinear | LoRAExperts | LoRARouter
"""The modules that carry adapters, in the place of the base's own."""


@dataclass(frozen=True)
class AdapterForm:
    """One form of adapter."""

    takes: Callable[[Matrix, nn.Module], bool]
    """Whether it is the form for this matrix of this module of the base."""
    carry: Callable[[Matrix, nn.Module, PolicyRouting], Carrier]
    """What takes the module's place; TargetError for a module that cannot carry an adapter."""
    start: Callable[[LoRA, Matrix, Any, torch.Generator], Start]
    """(method, matrix, carrier, generator) → A and B; TargetError for a method that is not built here."""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"plain": {}})
    """By name, the fields of a LoRA that make another computation of it here."""
    initialisations: tuple[str, ...] = tuple(INITIALISATIONS)
    """Those that are built here."""
    dropout: bool = True
    """Whether dropout is built here."""


def form_of(matrix: Matrix, module: nn.Module) -> AdapterForm:
    """The form for a matrix of a module of the base: the first that takes it."""
    return next(form for form in FORMS.values() if form.takes(matrix, module))


def carrier_name(matrix: Matrix) -> str:
    """The module that carries a matrix's adapters: its own, or that of all matrices of the experts of a layer."""
    return matrix.name.rpartition(".")[0] if matrix.experts else matrix.name


def _is_routers_own(matrix: Matrix, module: nn.Module) -> bool:
    """A router that is a plain linear map is adapted as one."""
    return matrix.group == "router" and not isinstance(module, nn.Linear)


def _start_linear(method: LoRA, matrix: Matrix, carrier: LoRALinear, generator: torch.Generator) -> Start:
    return initial(method, matrix, carrier.matrix, generator)


def _start_router(method: LoRA, matrix: Matrix, carrier: LoRARouter, generator: torch.Generator) -> Start:
    if method.dora or method.dropout:
        raise TargetError(f"{matrix.name}: on a router, a LoRA with dora or dropout is not built. Leave it out.")
    return initial(method, matrix, carrier.matrix, generator)


def _start_experts(method: LoRA, matrix: Matrix, carrier: LoRAExperts, generator: torch.Generator) -> Start:
    return expert_start(method, matrix, generator)


_MAGNITUDES: Mapping[str, Mapping[str, Any]] = {"plain": {}, "dora": {"dora": True}}

FORMS: Mapping[str, AdapterForm] = {
    "experts": AdapterForm(
        takes=lambda matrix, module: matrix.experts is not None,
        carry=lambda matrix, module, routing: LoRAExperts(carrier_name(matrix), module, routing),
        start=_start_experts,
        variants={convention: {"convention": convention} for convention in CONVENTIONS},
        initialisations=("uniform",),
        dropout=False,
    ),
    "router": AdapterForm(
        takes=_is_routers_own,
        carry=lambda matrix, module, routing: LoRARouter(matrix.name, module, routing),
        start=_start_router,
        dropout=False,
    ),
    "unembedding": AdapterForm(
        takes=lambda matrix, module: matrix.group == "unembedding",
        carry=lambda matrix, module, routing: LoRALinear(matrix.name, module, routing, unembedding=True),
        start=_start_linear,
        variants=_MAGNITUDES,
    ),
    "linear": AdapterForm(
        takes=lambda matrix, module: True,
        carry=lambda matrix, module, routing: LoRALinear(matrix.name, module, routing),
        start=_start_linear,
        variants=_MAGNITUDES,
    ),
}
"""By name; the order is that in which they are asked."""
