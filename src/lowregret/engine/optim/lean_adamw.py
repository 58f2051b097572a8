"""AdamW with moments of 8 bits, over float32 weights, over bfloat16 ones, and over these with a remainder.

A matrix is stepped piece by piece in float32, so that a step takes little memory of its own; weights of one dimension,
which are few, have float32 moments.
"""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lowregret.engine.optim.adamw import AdamParams, TorchAdamW
from lowregret.engine.optim.blocks import adamw_in_blocks, require_library
from lowregret.engine.optim.narrow import joined, mixed, round_by_chance, split
from lowregret.engine.optim.optimizer import Names, PolicyOptimizer
from lowregret.errors import SpecError
from lowregret.models.sharded import here
from lowregret.spec.optimizer import BF16, BLOCK, AdamW8bit, BF16Split

PIECE = 2**22
"""Numbers that are stepped at once: whole blocks."""


class _InBlocks(PolicyOptimizer[AdamParams], ABC):
    """Steps matrices by `adamw_in_blocks`, and all else by torch's AdamW."""

    params = AdamParams

    def _start(self) -> MutableMapping[Any, Any]:
        require_library()
        _require_whole_blocks(self._parameters)
        vectors = {rate: [own for own in some if own.ndim < 2] for rate, some in self._by_rate.items()}
        self._rates = {own: rate for rate, some in self._by_rate.items() for own in some}
        self._names = dict(self._parameters)
        self._vectors = TorchAdamW(vectors)
        return self._vectors.state

    @abstractmethod
    def _read(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """A piece of a weight in float32: itself, or a copy."""

    @abstractmethod
    def _write(self, weight: Tensor, kept: Mapping[str, Tensor], values: Tensor, key: int) -> None:
        """Put there what the step has made of it; `key` is another for every piece and step."""

    def _counted_on_host(self, parameter: nn.Parameter) -> bool:
        return parameter.ndim >= 2

    def _update(self, params: AdamParams) -> None:
        self._vectors.step(params)
        for parameter, names in self._parameters:
            if parameter.ndim >= 2 and parameter.grad is not None:
                kept = self._kept.get(parameter) or self._fresh_of_one(parameter, names)
                self._kept[parameter] = kept
                self._step(parameter, kept, params)

    def _step(self, parameter: nn.Parameter, kept: Mapping[str, Tensor], params: AdamParams) -> None:
        assert parameter.grad is not None
        kept["step"].add_(1)
        step, rate = int(kept["step"]), params.learning_rate * self._rates[parameter]
        (name,) = self._names[parameter](parameter.detach())
        weight, gradient = here(parameter.detach()), here(parameter.grad).flatten()
        numbers = weight.flatten()  # a copy where a weight is a view with gaps
        own = {key: here(value).flatten() for key, value in kept.items()}
        for start in range(0, numbers.numel(), PIECE):
            piece = slice(start, min(start + PIECE, numbers.numel()))
            blocks = slice(start // BLOCK, -(-piece.stop // BLOCK))
            part = {key: value[blocks if key.endswith("_scale") else piece] for key, value in own.items()}
            values = self._read(numbers[piece], part)
            moments = [(part[moment], part[f"{moment}_scale"]) for moment in ("exp_avg", "exp_avg_sq")]
            adamw_in_blocks(values, gradient[piece].float(), moments[0], moments[1], step, rate, params)
            self._write(numbers[piece], part, values, mixed(zlib.crc32(name.encode()), step, start))
        if numbers.data_ptr() != weight.data_ptr():
            weight.copy_(numbers.view_as(weight))


def _require_whole_blocks(parameters: Sequence[tuple[nn.Parameter, Names]]) -> None:
    """SpecError for a weight in parts, of rows, whose blocks reach from one row into the next."""
    for parameter, names in parameters:
        row = math.prod(parameter.shape[1:])
        if isinstance(parameter, DTensor) and parameter.ndim >= 2 and row % BLOCK:
            (name,) = names(parameter.detach())
            raise SpecError(
                f"{name} lies in parts, and moments of 8 bits share scales by blocks of {BLOCK} numbers, of which its "
                f"rows of {row:,} hold no whole number: what is trained would depend on the devices. Use one device, "
                "or full."
            )


@final
class AdamW8bitOptimizer(_InBlocks):
    """Over float32 weights, which are stepped where they are."""

    spec = AdamW8bit
    prefix = "adamw8bit"

    def _read(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        return weight

    def _write(self, weight: Tensor, kept: Mapping[str, Tensor], values: Tensor, key: int) -> None:
        pass


@final
class BF16Optimizer(_InBlocks):
    """Over bfloat16 weights, rounded by chance. The chance is told by the weight, the step and the place."""

    spec = BF16
    prefix = "bf16"

    def _read(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        return weight.to(torch.float32)

    def _write(self, weight: Tensor, kept: Mapping[str, Tensor], values: Tensor, key: int) -> None:
        weight.copy_(round_by_chance(values, key))


@final
class BF16SplitOptimizer(_InBlocks):
    """Over bfloat16 weights, with what rounding takes off of them kept beside."""

    spec = BF16Split
    prefix = "bf16-split"

    def _read(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        return joined(weight, kept["remainder"])

    def _write(self, weight: Tensor, kept: Mapping[str, Tensor], values: Tensor, key: int) -> None:
        nearest, rest = split(values)
        weight.copy_(nearest)
        kept["remainder"].copy_(rest)
