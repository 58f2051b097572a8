"""How the devices of one training are arranged. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from lowregret import limits
from lowregret.errors import SpecError, did_you_mean
from lowregret.spec.base import Spec

Size = Annotated[int, Field(ge=1, le=limits.DEVICES)]
_FIELDS: Mapping[str, str] = MappingProxyType(
    {"replicate": "replicate", "fsdp": "shard", "expert": "expert", "tensor": "tensor"}
)
"""How each dimension is spelled, the outermost first: neighbouring ranks differ in the last."""
_EXAMPLE = "such as fsdp=4,tensor=2"


class Mesh(Spec):
    """Devices by what they share: replicate × shard × expert × tensor."""

    replicate: Size = 1
    """Groups that each hold all weights between them; each takes rows or trials of its own."""
    shard: Size = 1
    """Devices that hold weights, gradients and moments in parts, and gather a layer when it is its turn (FSDP)."""
    expert: Size = 1
    """Devices that share the experts of a mixture, each with rows of its own."""
    tensor: Size = 1
    """Devices that cut each matrix and compute the same rows."""

    @classmethod
    def parse(cls, text: str) -> Mesh:
        """From `fsdp=4,tensor=2`; a dimension that is not named is 1. SpecError names the key and what would work."""
        sizes: dict[str, int] = {}
        for part in text.split(","):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals:
                raise SpecError(f"--parallel {text!r}: {part.strip()!r} is no dimension with its devices, {_EXAMPLE}.")
            if key not in _FIELDS:
                raise SpecError(f"--parallel {text!r}: unknown dimension {key!r}. {did_you_mean(key, _FIELDS)}")
            if _FIELDS[key] in sizes:
                raise SpecError(f"--parallel {text!r}: {key} is given twice. Give it once, {_EXAMPLE}.")
            sizes[_FIELDS[key]] = _size(text, key, value)
        return cls(**sizes)

    @property
    def devices(self) -> int:
        """How many it takes."""
        return self.replicate * self.shard * self.expert * self.tensor

    @property
    def data(self) -> int:
        """Among how many rows or trials are dealt."""
        return self.replicate * self.shard * self.expert

    @property
    def alike(self) -> int:
        """How many hold the same weights and the same moments of an adapter, unless these lie in slices over them."""
        return self.replicate * self.shard

    @property
    def in_parts(self) -> bool:
        """Whether no device holds all weights."""
        return self.devices > self.replicate

    def __str__(self) -> str:
        """What `parse` reads; a dimension of one device is left out."""
        sizes = {key: getattr(self, field) for key, field in _FIELDS.items()}
        return ",".join(f"{key}={size}" for key, size in sizes.items() if size > 1) or "fsdp=1"


def _size(text: str, key: str, value: str) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) < 10 and 1 <= int(value) <= limits.DEVICES):
        raise SpecError(
            f"--parallel {text!r}: {key} is {value!r}; a whole number of devices is needed, 1 to {limits.DEVICES:,}."
        )
    return int(value)


@dataclass(frozen=True)
class Divisible:
    """The counts of a base that a mesh has to divide."""

    name: str
    """Of the base, for messages."""
    heads: Sequence[int]
    """Attention heads of a layer, of each kind of layer; so the following."""
    kv_heads: Sequence[int]
    widths: Sequence[int]
    """Of the MLPs."""
    experts: int
    """0 in a dense base."""

    @property
    def finest(self) -> int:
        """The most devices that can cut the matrices; 0 where nothing is to be divided."""
        return math.gcd(*(count for _, count in self._cut()))

    def tensor_sizes(self, most: int) -> list[int]:
        """Over how many devices, up to `most`, the matrices can be cut."""
        return [size for size in range(1, most + 1) if not any(count % size for _, count in self._cut())]

    def expert_sizes(self, most: int) -> list[int]:
        """Over how many devices, up to `most`, the experts can be shared."""
        return [size for size in range(1, most + 1) if self.experts % size == 0] if self.experts else [1]

    def undivided(self, tensor: int) -> str:
        """What so many devices cannot cut, in words; empty when they can cut all."""
        return next((f"{count:,} {what}" for what, count in self._cut() if count % tensor), "")

    def _cut(self) -> Iterator[tuple[str, int]]:
        """What tensor parallelism divides, the scarcest first."""
        yield from (("key/value heads", count) for count in self.kv_heads)
        yield from (("heads", count) for count in self.heads)
        yield from (("columns of an MLP", count) for count in self.widths)


def require(mesh: Mesh, base: Divisible) -> None:
    """That a base can be arranged so: SpecError with the numbers that would work."""
    if base.undivided(mesh.tensor):
        works = base.tensor_sizes(base.finest)
        raise SpecError(
            f"--parallel tensor={mesh.tensor}: {base.name} has {base.undivided(mesh.tensor)}, which so many devices do "
            f"not divide. Use tensor={_either(works)}."
        )
    if mesh.expert > 1 and not base.experts:
        raise SpecError(f"--parallel expert={mesh.expert}: {base.name} has no experts. Leave expert out.")
    if mesh.expert not in base.expert_sizes(mesh.expert):
        raise SpecError(
            f"--parallel expert={mesh.expert}: {base.name} has {base.experts:,} experts a layer, which so many devices "
            f"do not divide. Use expert={_either(base.expert_sizes(base.experts))}."
        )


def require_devices(mesh: Mesh, devices: int) -> None:
    """That a mesh takes as many devices as there are: SpecError with what would work."""
    if mesh.devices == devices:
        return
    rest = mesh.devices // mesh.shard
    near = f", or --parallel {mesh.model_copy(update={'shard': devices // rest})}" if devices % rest == 0 else ""
    raise SpecError(
        f"--parallel {mesh} takes {mesh.devices:,} devices, and --devices is {devices:,}. "
        f"Use --devices {mesh.devices}{near}."
    )


def _either(sizes: Sequence[int]) -> str:
    """`1, 2 or 4`."""
    *first, last = map(str, sizes)
    return f"{', '.join(first)} or {last}" if first else last
