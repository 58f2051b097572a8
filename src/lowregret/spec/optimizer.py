"""Which optimizer, its hyper-parameters, the shape of the learning rate, and what it keeps in memory. Torch-free.

An entry is a class here and one of engine/optim, of the same `kind`. What it declares here about its state is what the
plan and the packs count by; tests/laws/test_optimizer.py holds every entry to it.

The `[optimizer]` of a spec is AdamW's. Every other kind changes what a training comes to, so that it is a method of its
own (`full:bf16`), which takes its hyper-parameters from that table: see `stepped_by`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

from pydantic import Discriminator, Field, Tag, model_validator

from lowregret import limits
from lowregret.spec.base import Spec, build
from lowregret.spec.marks import Unit

DEFAULT_DECAY_FRACTION = 0.33
DEFAULT_OPTIMIZER = "adamw"
"""The kind that is meant where none is named; it is not written down either."""
NUMBER_BYTES = 4
"""Weights that train, their gradients and the optimizer's state are float32, unless a kind says otherwise."""
SLICED_BYTES = 2**27
"""Of an adapter's state, from which on devices keep a part of it each. No device is short of less."""
BLOCK = 256
"""Numbers that share a scale where moments have 8 bits."""

Schedule = Literal["constant", "linear", "cosine", "wsd"]
LeanKind = Literal["adamw8bit", "bf16", "bf16-split", "bf16-nearest", "adafactor", "muon"]
"""Kinds that a FullFT may name as its own."""
LoRAKind = Literal["adamw8bit", "adafactor", "muon"]
"""Those that a LoRA may name: its weights are float32."""
Extent = Literal["weight", "scalar", "block", "row", "column"]
"""What an optimizer keeps of a weight: as many numbers as the weight has, in its shape; a single one; one for each
block of BLOCK numbers in a row, whatever their weight's shape; one for each row; one for each column."""
Dtype = Literal["float32", "bfloat16", "uint8", "int8"]
_ITEM_BYTES: Mapping[Dtype, int] = MappingProxyType({"float32": 4, "bfloat16": 2, "uint8": 1, "int8": 1})


def _is_default(kind: str) -> bool:
    return kind == DEFAULT_OPTIMIZER


class OptimizerSpec(Spec):
    """What all optimizers have in common; their own hyper-parameters come before these."""

    STATE: ClassVar[Mapping[str, Extent]]
    """What is kept of each weight matrix, by name."""
    OUTSIDE: ClassVar[Mapping[str, Extent] | None] = None
    """The same of embeddings and the unembedding; None for what STATE says."""
    VECTORS: ClassVar[Mapping[str, Extent] | None] = None
    """The same of weights of one dimension; None for what STATE says."""
    TYPES: ClassVar[Mapping[str, Dtype]] = MappingProxyType({})
    """The types of what is kept of weights of two dimensions and more, where they are not float32."""
    WEIGHTS: ClassVar[Dtype] = "float32"
    """The type of the weight matrices that train, and of their gradients; those of one dimension are float32."""
    ELEMENTWISE: ClassVar[bool] = True
    """Whether each number is stepped by its own gradient and state alone, so that weights may be stepped as one vector,
    or in parts that are cut anywhere, by several ranks."""
    IN_PARTS: ClassVar[bool] = True
    """Whether it steps weights that lie in parts on several devices."""
    NEEDS: ClassVar[str | None] = None
    """A package that is not among the project's own."""

    clip_norm: float | None = Field(default=None, gt=0, le=limits.FACTOR)
    """Global gradient norm above which gradients are scaled down; off when not given."""
    schedule: Schedule = "constant"
    """The learning rate after warm-up: constant; falling to zero linearly or as a cosine; or constant, then linear over
    the last `decay_fraction`."""
    warmup_steps: Annotated[int, Unit("steps")] = Field(default=0, ge=0, le=limits.STEPS)
    """Over so many steps the learning rate rises linearly from zero."""
    decay_fraction: float = Field(default=DEFAULT_DECAY_FRACTION, gt=0, le=1)
    """Share of the run over which `wsd` decays to zero."""

    @property
    def name(self) -> str:
        """Its kind, the key of the registries."""
        found: str = self.__dict__["kind"]
        return found

    @classmethod
    def kept(cls, dimensions: int, *, outside: bool = False) -> Mapping[str, Extent]:
        """What is kept of a weight of so many dimensions; `outside`: of an embedding, or the unembedding."""
        own = cls.VECTORS if dimensions < 2 else cls.OUTSIDE if outside else None
        return cls.STATE if own is None else own

    @classmethod
    def state_shapes(cls, shape: tuple[int, ...], *, outside: bool = False) -> dict[str, tuple[int, ...]]:
        """The shape of everything that is kept of a weight of this shape, by name."""
        return {name: _shape(extent, shape) for name, extent in cls.kept(len(shape), outside=outside).items()}

    @classmethod
    def dtype(cls, name: str, dimensions: int = 2) -> Dtype:
        """The type of what is kept under this name of a weight of so many dimensions."""
        return cls.TYPES.get(name, "float32") if dimensions >= 2 else "float32"

    @classmethod
    def slices(cls, numbers: int, devices: int) -> int:
        """Over how many of the devices that hold the same adapter its state lies, each with a part: over all where that
        is possible and worth telling the others the weights each step; else over one."""
        return devices if cls.ELEMENTWISE and numbers * cls.state_bytes() >= SLICED_BYTES else 1

    @classmethod
    def weight_bytes(cls) -> int:
        """Bytes of a number that trains, and of its gradient."""
        return _ITEM_BYTES[cls.WEIGHTS]

    @classmethod
    def state_bytes(cls, inside: float = 1.0) -> float:
        """Bytes of state for each number that trains, of which the share `inside` lies in matrices of layers.

        What is kept once a weight, a row or a column is not counted.
        """
        return inside * cls._bytes(cls.kept(2)) + (1 - inside) * cls._bytes(cls.kept(2, outside=True))

    @classmethod
    def _bytes(cls, kept: Mapping[str, Extent]) -> float:
        shares: Mapping[Extent, float] = {"weight": 1.0, "block": 1 / BLOCK}
        return sum(_ITEM_BYTES[cls.dtype(name)] * shares.get(extent, 0.0) for name, extent in kept.items())

    @classmethod
    def bytes_per_parameter(cls, inside: float = 1.0, *, in_backward: bool = False) -> float:
        """Bytes for each number that trains: the weight, its gradient and the state.

        `in_backward`: each gradient is gone as soon as its weight has been stepped.
        """
        return (1 if in_backward else 2) * cls.weight_bytes() + cls.state_bytes(inside)

    @classmethod
    def step_traffic(cls, inside: float = 1.0) -> float:
        """Bytes that a step moves for each number that trains: all is read, and all but the gradient is written."""
        return 2 * cls.bytes_per_parameter(inside) - cls.weight_bytes()

    @model_validator(mode="after")
    def _used(self) -> OptimizerSpec:
        if self.schedule != "wsd" and self.decay_fraction != DEFAULT_DECAY_FRACTION:
            raise ValueError(f"decay_fraction is of use with the schedule wsd only, not with {self.schedule}")
        return self


class _OfAdamW(Spec):
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the running mean of the gradients, per step."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the running mean of their squares, per step."""
    eps: float = Field(default=1e-8, gt=0, le=limits.FACTOR)
    """Added to the root of that mean, which divides the step."""
    weight_decay: float = Field(default=0.0, ge=0, le=limits.FACTOR)
    """Decoupled weight decay, per step: w ← w − lr · weight_decay · w."""


class _KindOfAdamW(Spec):
    kind: Literal["adamw"] = Field(default="adamw", exclude_if=_is_default)
    """Which optimizer."""


class AdamW(OptimizerSpec, _OfAdamW, _KindOfAdamW):
    """AdamW and the shape of the learning rate over the run."""

    STATE = MappingProxyType({"step": "scalar", "exp_avg": "weight", "exp_avg_sq": "weight"})
    ELEMENTWISE = True


_IN_BLOCKS: Mapping[str, Extent] = MappingProxyType(
    {**AdamW.STATE, "exp_avg_scale": "block", "exp_avg_sq_scale": "block"}
)
_BYTES_EACH: Mapping[str, Dtype] = MappingProxyType({"exp_avg": "uint8", "exp_avg_sq": "uint8"})


class _InBlocks(OptimizerSpec, _OfAdamW):
    STATE = _IN_BLOCKS
    VECTORS = AdamW.STATE
    TYPES = _BYTES_EACH
    ELEMENTWISE = False
    NEEDS = "bitsandbytes"


class AdamW8bit(_InBlocks):
    """AdamW whose moments of matrices have 8 bits a number, block by block (arXiv 2110.02861)."""

    kind: Literal["adamw8bit"] = "adamw8bit"


class BF16(_InBlocks):
    """The same over bfloat16 weights, which a step rounds up or down by chance (arXiv 2010.06192)."""

    kind: Literal["bf16"] = "bf16"

    WEIGHTS = "bfloat16"
    IN_PARTS = False


class BF16Split(_InBlocks):
    """The same over bfloat16 weights with 8 more bits of each, which only the step sees."""

    kind: Literal["bf16-split"] = "bf16-split"

    STATE = MappingProxyType({**_IN_BLOCKS, "remainder": "weight"})
    TYPES = MappingProxyType({**_BYTES_EACH, "remainder": "int8"})
    WEIGHTS = "bfloat16"
    IN_PARTS = False


class BF16Nearest(OptimizerSpec, _OfAdamW):
    """AdamW over bfloat16 weights and moments, rounded to the nearest: small steps are lost. To compare with."""

    kind: Literal["bf16-nearest"] = "bf16-nearest"

    STATE = AdamW.STATE
    TYPES = MappingProxyType({"exp_avg": "bfloat16", "exp_avg_sq": "bfloat16"})
    WEIGHTS = "bfloat16"
    IN_PARTS = False


class _WithDecay(Spec):
    weight_decay: float = Field(default=0.0, ge=0, le=limits.FACTOR)
    """Decoupled weight decay, per step: w ← w − lr · weight_decay · w."""


class Adafactor(OptimizerSpec, _WithDecay):
    """Adafactor, as torch has it (arXiv 1804.04235): of a matrix's squared gradients it keeps means of rows and of
    columns, and no momentum; the learning rate is relative to the weight's own size."""

    kind: Literal["adafactor"] = "adafactor"

    STATE = MappingProxyType({"step": "scalar", "row_var": "row", "col_var": "column"})
    VECTORS = MappingProxyType({"step": "scalar", "variance": "weight"})
    ELEMENTWISE = False
    IN_PARTS = False


class Muon(OptimizerSpec, _OfAdamW):
    """Muon for the matrices of layers (arXiv 2502.16982: momentum 0.95, its step as large as AdamW's), AdamW for the
    rest, with these hyper-parameters."""

    kind: Literal["muon"] = "muon"

    STATE = MappingProxyType({"momentum_buffer": "weight"})
    OUTSIDE = AdamW.STATE
    VECTORS = AdamW.STATE
    ELEMENTWISE = False
    IN_PARTS = False


OPTIMIZERS: Mapping[str, type[OptimizerSpec]] = MappingProxyType(
    {
        "adamw": AdamW,
        "adamw8bit": AdamW8bit,
        "bf16": BF16,
        "bf16-split": BF16Split,
        "bf16-nearest": BF16Nearest,
        "adafactor": Adafactor,
        "muon": Muon,
    }
)
"""All that there are, by kind."""
TABLES: Mapping[str, type[OptimizerSpec]] = MappingProxyType({DEFAULT_OPTIMIZER: AdamW})
"""Those that a spec's own table may be of."""


def stepped_by(kind: str | None, asked: OptimizerSpec) -> OptimizerSpec:
    """The optimizer of a method that names this kind, with all hyper-parameters of the spec's own that it has, too;
    that one itself for a method that names none."""
    if kind is None or kind == asked.name:
        return asked
    own = OPTIMIZERS[kind]
    shared = own.model_fields.keys() & type(asked).model_fields.keys() - {"kind"}
    return build(own, {name: getattr(asked, name) for name in shared})


def _shape(extent: Extent, shape: tuple[int, ...]) -> tuple[int, ...]:
    if extent == "scalar":
        return ()
    if extent == "row":
        return (*shape[:-1], 1)
    if extent == "column":
        return (*shape[:-2], 1, shape[-1])
    if extent == "block":
        return block_shape(shape)
    return shape


def block_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of the scales of a weight's blocks: they follow its rows where blocks do not straddle them, so that they can be
    cut with it."""
    row = math.prod(shape[1:])
    return (shape[0], row // BLOCK) if row and row % BLOCK == 0 else (-(-math.prod(shape) // BLOCK),)


def _kind(value: Any) -> Any:
    """Of a table or an optimizer."""
    return value.get("kind", DEFAULT_OPTIMIZER) if isinstance(value, dict) else getattr(value, "kind", None)


def _union(kinds: Mapping[str, type[OptimizerSpec]]) -> Any:
    """Any of these, told apart by `kind`, which may be absent. pydantic takes a discriminator from two on."""
    if len(kinds) == 1:
        return next(iter(kinds.values()))
    tagged = tuple(Annotated[found, Tag(kind)] for kind, found in kinds.items())
    told_apart = Discriminator(
        _kind, custom_error_type="kind", custom_error_message=f"kind should be one of {', '.join(kinds)}"
    )
    return Annotated[Union[tagged], told_apart]  # noqa: UP007


if TYPE_CHECKING:
    Optimizer = OptimizerSpec
else:
    Optimizer = _union(TABLES)
    """What a spec takes as its optimizer."""
