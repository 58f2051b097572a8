"""Which optimizer, its hyper-parameters, the shape of the learning rate, and what it keeps in memory. Torch-free.

An entry is a class here and one of engine/optim, of the same `kind`. What it declares here about its state is what the
plan and the packs count by; tests/laws/test_optimizer.py holds every entry to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

from pydantic import Discriminator, Field, Tag, model_validator

from lowregret import limits
from lowregret.spec.base import Spec
from lowregret.spec.marks import Unit

DEFAULT_DECAY_FRACTION = 0.33
DEFAULT_OPTIMIZER = "adamw"
"""The kind that is meant where none is named; it is not written down either."""
NUMBER_BYTES = 4
"""Weights that train, their gradients and the optimizer's state are float32."""
SLICED_BYTES = 2**27
"""Of an adapter's state, from which on devices keep a part of it each. No device is short of less."""

Schedule = Literal["constant", "linear", "cosine", "wsd"]
Extent = Literal["weight", "scalar"]
"""What an optimizer keeps of a weight: as many numbers as the weight has, in its shape, or a single one."""


def _is_default(kind: str) -> bool:
    return kind == DEFAULT_OPTIMIZER


class OptimizerSpec(Spec):
    """What all optimizers have in common; their own hyper-parameters come before these."""

    STATE: ClassVar[Mapping[str, Extent]]
    """What is kept of each weight, by name."""
    ELEMENTWISE: ClassVar[bool] = False
    """Whether each number is stepped by its own gradient and state alone, so that ranks can step slices of a weight."""

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
    def state_shapes(cls, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The shape of everything that is kept of a weight of this shape, by name."""
        return {name: shape if extent == "weight" else () for name, extent in cls.STATE.items()}

    @classmethod
    def state_bytes(cls) -> int:
        """Bytes of state for each number that trains; a single number a weight is not counted."""
        return NUMBER_BYTES * sum(extent == "weight" for extent in cls.STATE.values())

    @classmethod
    def slices(cls, numbers: int, devices: int) -> int:
        """Over how many of the devices that hold the same adapter its state lies, each with a part: over all where that
        is possible and worth telling the others the weights each step; else over one."""
        return devices if cls.ELEMENTWISE and numbers * cls.state_bytes() >= SLICED_BYTES else 1

    @classmethod
    def bytes_per_parameter(cls) -> int:
        """Bytes for each number that trains: the weight, its gradient and the state."""
        return 2 * NUMBER_BYTES + cls.state_bytes()

    @classmethod
    def step_traffic(cls) -> int:
        """Bytes that a step moves for each number that trains: all is read, and all but the gradient is written."""
        return 2 * cls.bytes_per_parameter() - NUMBER_BYTES

    @model_validator(mode="after")
    def _used(self) -> OptimizerSpec:
        if self.schedule != "wsd" and self.decay_fraction != DEFAULT_DECAY_FRACTION:
            raise ValueError(f"decay_fraction is of use with the schedule wsd only, not with {self.schedule}")
        return self


class _OfAdamW(Spec):
    kind: Literal["adamw"] = Field(default="adamw", exclude_if=_is_default)
    """Which optimizer."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the running mean of the gradients, per step."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the running mean of their squares, per step."""
    eps: float = Field(default=1e-8, gt=0, le=limits.FACTOR)
    """Added to the root of that mean, which divides the step."""
    weight_decay: float = Field(default=0.0, ge=0, le=limits.FACTOR)
    """Decoupled weight decay, per step: w ← w − lr · weight_decay · w."""


class AdamW(OptimizerSpec, _OfAdamW):
    """AdamW and the shape of the learning rate over the run."""

    STATE = MappingProxyType({"step": "scalar", "exp_avg": "weight", "exp_avg_sq": "weight"})
    ELEMENTWISE = True


OPTIMIZERS: Mapping[str, type[OptimizerSpec]] = MappingProxyType({"adamw": AdamW})
"""All that there are, by kind."""


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
    Optimizer = _union(OPTIMIZERS)
    """What a spec takes as its optimizer."""
