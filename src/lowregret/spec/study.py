"""The study behind `lowregret compare`: which methods, which learning rates, how many seeds, how sure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from lowregret.spec.method import FullFT, LoRA, Method
from lowregret.spec.trial import TrainingSpec


def _fraction(value: Any) -> Any:
    """`"0.5%"` is 0.005; numbers pass."""
    if isinstance(value, str):
        text = value.strip()
        try:
            return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            raise ValueError("give a percentage such as 0.5% or a fraction such as 0.005") from None
    return value


def _fraction_or_off(value: Any) -> Any:
    return None if value == "off" else _fraction(value)


PositiveRate = Annotated[float, Field(gt=0, lt=1e3)]


class CompareSpec(TrainingSpec):
    """`lowregret compare`: LoRA against full fine-tuning, each at its own bracketed learning rate."""

    methods: tuple[Method, ...] = (LoRA(rank=16), FullFT())
    learning_rates: tuple[PositiveRate, ...] | Literal["auto"] = "auto"
    """auto: search from the prior, widen until bracketed, then refine. A list: exactly these, for every method."""
    seeds: int = Field(default=3, ge=1)
    """Trials at each method's best learning rate; the search itself uses seed 0."""
    tolerance: Annotated[float, BeforeValidator(_fraction), Field(gt=0, lt=1)] = 0.005
    """Regret counts as low when the whole interval lies under this share of the FullFT loss."""
    prune: Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(_fraction_or_off)] = 0.25
    """Stop a search trial at a mid-run evaluation whose loss exceeds that of the method's best trial at the same
    step by more than this share; `"off"` runs every trial to its end."""

    @model_validator(mode="after")
    def _comparable(self) -> CompareSpec:
        names = [method.name for method in self.methods]
        if len(set(names)) < len(names):
            raise ValueError(f"methods: {', '.join(names)} names a method twice")
        if not any(isinstance(m, FullFT) for m in self.methods) or not any(isinstance(m, LoRA) for m in self.methods):
            raise ValueError(
                f"methods: {', '.join(names)} has nothing to compare: regret needs `full` and at least one lora:RANK"
            )
        if self.learning_rates != "auto" and len(set(self.learning_rates)) < len(self.learning_rates):
            raise ValueError("learning_rates: a rate is named twice")
        return self
