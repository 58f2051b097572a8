"""Weights in four bits: what QLoRA freezes (arXiv 2305.14314). bitsandbytes packs and unpacks them.

A `FourBitWeight` stands in the place of a weight, has its shape and its type, and is the packed numbers: whoever
multiplies by it gets it unpacked for that product and no longer, and what autograd keeps of it for a backward pass are
the packed ones.
"""

from __future__ import annotations

import logging
from copy import copy
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from transformers import PreTrainedModel

from lowregret.errors import SpecError
from lowregret.models.experts import stored_name
from lowregret.models.targets import Matrix, matrices

PACKED = ("attention", "mlp", "experts")
"""Groups of matrices that are put into four bits; embedding, unembedding, routers, norms and biases stay as they are,
as in QLoRA."""
BLOCK = 64
"""Numbers that share a scale; 256 scales, in 8 bits themselves, share another."""
_ATEN = torch.ops.aten


@cache
def bitsandbytes() -> Any:
    """The library's functions; SpecError with what to install where it is missing."""
    log = logging.getLogger("bitsandbytes")
    level = log.level
    log.setLevel(logging.ERROR)  # it recommends another product for CPUs, of no use here
    try:
        return import_module("bitsandbytes.functional")
    except ImportError as error:
        raise SpecError(
            f"a base in NF4 needs bitsandbytes: pip install 'lowregret[nf4]' ({error}). Or leave nf4 out of the method."
        ) from None
    finally:
        log.setLevel(level)


@dataclass(frozen=True)
class Packed:
    """One matrix in four bits: bytes of two numbers each, and by what bitsandbytes unpacks them."""

    numbers: Tensor
    state: Any
    """A `QuantState`."""

    @classmethod
    def of(cls, matrix: Tensor) -> Packed:
        """NF4 with double quantisation."""
        how = {"blocksize": BLOCK, "quant_type": "nf4", "compress_statistics": True}
        return cls(*bitsandbytes().quantize_4bit(matrix.contiguous(), **how))

    def to(self, device: torch.device) -> Packed:
        """The same on another device."""
        if self.numbers.device == device:
            return self
        state = copy(self.state)
        state.state2 = copy(state.state2)
        state.to(device)
        return Packed(self.numbers.to(device), state)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """The numbers that it stands for, [d_out, d_in]."""
        state = copy(self.state)
        state.dtype = dtype if dtype in (torch.bfloat16, torch.float16) else torch.float32
        found: Tensor = bitsandbytes().dequantize_4bit(self.numbers, state)
        return found.to(dtype)

    @property
    def tensors(self) -> list[Tensor]:
        """What it is made of, but for the tables that all have in common."""
        nested = [self.state.state2.absmax, self.state.offset] if self.state.nested else []
        return [self.numbers, self.state.absmax, *nested]


@final
class FourBitWeight(Tensor):
    """A frozen matrix, or one of every expert of a layer, in four bits.

    What is asked of it but its shape, type, device, a part of its experts or its transpose is asked of the unpacked
    numbers. TypeError when something is to be written to it.
    """

    parts: tuple[Packed, ...]
    stacked: bool
    """Whether there is a matrix of each expert, and a dimension for them."""
    turned: bool
    """Whether it is the transpose."""

    @staticmethod
    def __new__(
        cls, parts: tuple[Packed, ...], dtype: torch.dtype, *, stacked: bool = False, turned: bool = False
    ) -> FourBitWeight:
        rows, columns = parts[0].state.shape
        shape = (columns, rows) if turned else (rows, columns)
        found: FourBitWeight = Tensor._make_wrapper_subclass(
            cls, (len(parts), *shape) if stacked else shape, dtype=dtype, device=parts[0].numbers.device
        )
        found.parts, found.stacked, found.turned = parts, stacked, turned
        return found

    @classmethod
    def of(cls, weight: Tensor) -> FourBitWeight:
        """Pack [d_out, d_in] or [experts, d_out, d_in], each expert's matrix by itself."""
        matrices = weight.unbind() if weight.ndim == 3 else (weight,)
        return cls(tuple(map(Packed.of, matrices)), weight.dtype, stacked=weight.ndim == 3)

    def unpacked(self) -> Tensor:
        """The numbers that it stands for, in its type."""
        each = [part.unpacked(self.dtype) for part in self.parts]
        whole = torch.stack(each) if self.stacked else each[0]
        return whole.mT if self.turned else whole

    @property
    def packed_bytes(self) -> int:
        """What it takes of the device's memory."""
        return sum(tensor.nbytes for part in self.parts for tensor in part.tensors)

    def _like(self, parts: tuple[Packed, ...] | None = None, **changed: Any) -> FourBitWeight:
        same = {"dtype": self.dtype, "stacked": self.stacked, "turned": self.turned}
        return FourBitWeight(self.parts if parts is None else parts, **{**same, **changed})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"FourBitWeight({tuple(self.shape)}, {self.dtype}, {self.device})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        if isinstance(args[0], FourBitWeight) and (packed := _kept_packed(func, args, kwargs)) is not None:
            return packed
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if isinstance(value, FourBitWeight) and argument.alias_info is not None and argument.alias_info.is_write:
                raise TypeError(f"{func}: a weight in four bits is not written to")
        dense = tree_map(lambda value: value.unpacked() if isinstance(value, FourBitWeight) else value, args)
        return func(*dense, **kwargs)


def _kept_packed(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation makes of a weight that stays packed; None where it needs the numbers."""
    weight, rest = args[0], list(args[1:])
    if func in (_ATEN.detach.default, _ATEN.alias.default, _ATEN.clone.default):
        return weight._like()
    if func is _ATEN._to_copy.default:
        device = torch.device(kwargs.get("device") or weight.device)
        parts = tuple(part.to(device) for part in weight.parts)
        return weight._like(parts, dtype=kwargs.get("dtype") or weight.dtype)
    if func in (_ATEN.new_zeros.default, _ATEN.new_empty.default):
        return func(torch.empty(0, dtype=weight.dtype, device=weight.device), *rest, **kwargs)
    if func is _ATEN.t.default or (func is _ATEN.transpose.int and _are_last_two(weight, *rest)):
        return weight._like(turned=not weight.turned)
    if func is _ATEN.permute.default and not weight.stacked and list(rest[0]) == [1, 0]:
        return weight._like(turned=not weight.turned)
    if func is _ATEN.select.int and weight.stacked and rest[0] == 0:
        return weight._like((weight.parts[rest[1]],), stacked=False)
    if func is _ATEN.slice.Tensor:
        dim, start, end, step = rest + [0, None, None, 1][len(rest) :]
        chosen = range(weight.shape[dim])[start:end:step]
        if len(chosen) == weight.shape[dim]:
            return weight._like()
        if weight.stacked and dim == 0 and len(chosen):
            return weight._like(tuple(weight.parts[place] for place in chosen))
    return None


def _are_last_two(weight: FourBitWeight, first: int, second: int) -> bool:
    last = {weight.ndim - 2, weight.ndim - 1}
    return {first % weight.ndim, second % weight.ndim} == last


@torch.no_grad()
def pack(model: PreTrainedModel, device: torch.device) -> None:
    """Put the matrices of the layers into four bits on a device, one after the other, so that it never holds them
    whole. Nothing else of the model is touched."""
    found: dict[int, nn.Parameter] = {}
    for matrix in matrices(model):
        if matrix.group not in PACKED:
            continue
        module, name = _place(model, matrix)
        weight = getattr(module, name)
        if isinstance(weight, FourBitWeight):
            continue
        if id(weight) not in found:
            packed = FourBitWeight.of(weight.detach().to(device))
            found[id(weight)] = nn.Parameter(packed, requires_grad=False)
        setattr(module, name, found[id(weight)])


def adopt(model: PreTrainedModel) -> bool:
    """Take over what transformers has loaded as bitsandbytes' modules, bytes as they are; whether there was any."""
    found = {name: module for name, module in model.named_modules() if hasattr(module, "quant_state")}
    for name, module in found.items():
        weight: Any = module.weight
        plain = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
        packed = FourBitWeight((Packed(weight.data, weight.quant_state),), model.dtype)
        plain.weight = nn.Parameter(packed, requires_grad=False)
        plain.bias = module.bias
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, plain)
    return bool(found)


def move(model: nn.Module, device: torch.device) -> None:
    """Move what is in four bits to a device."""
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if isinstance(weight, FourBitWeight):
                setattr(module, name, nn.Parameter(weight.to(device), requires_grad=False))


def _place(model: PreTrainedModel, matrix: Matrix) -> tuple[nn.Module, str]:
    """The module and the name of the parameter that a matrix lies in."""
    if matrix.experts is None:
        return model.get_submodule(matrix.name), "weight"
    name, _, role = matrix.name.rpartition(".")
    module = model.get_submodule(name)
    return module, stored_name(module, role)


def is_four_bit(model: nn.Module) -> bool:
    """Whether any weight of a model is in four bits."""
    return any(isinstance(weight, FourBitWeight) for weight in model.parameters())


def stored_bytes(weight: Tensor) -> int:
    """What a weight takes of memory."""
    return weight.packed_bytes if isinstance(weight, FourBitWeight) else weight.numel() * weight.element_size()
