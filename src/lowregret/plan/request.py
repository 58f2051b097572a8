"""What the user of a plan may fix. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lowregret.errors import SpecError
from lowregret.spec import AdamW, FullFT, LoRA, OptimizerSpec

ObjectiveKind = Literal["sft", "rl"]
"""The `kind` of a spec's objective."""


@dataclass(frozen=True)
class PlanRequest:
    """What the user fixed; None where the plan may choose."""

    objective: ObjectiveKind = "sft"
    method: FullFT | LoRA | None = None
    batch_size: int | None = None
    """Examples a step; in RL, problems."""
    epochs: float | None = None
    steps: int | None = None
    learning_rate: float | None = None
    max_length: int | None = None
    micro_batch_size: int | None = None
    checkpoint_activations: bool = False
    optimizer: type[OptimizerSpec] = AdamW
    """Whose state and traffic memory and time are counted with."""
    shards: int = 1
    """Devices that share weights, gradients and moments (FSDP)."""
    group_size: int = 8
    """RL: completions of each problem of a batch."""
    max_tokens: int = 128
    """RL: longest completion, in tokens."""
    pass_rate: float | None = None
    """RL: share of the samples that are right; a half, where they say most, when not given."""

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise SpecError("give --epochs or --steps, not both.")
        limits: dict[str, tuple[float | None, float]] = {
            "batch-size": (self.batch_size, 1), "steps": (self.steps, 1), "group-size": (self.group_size, 1),
            "max-length": (self.max_length, 2), "micro-batch-size": (self.micro_batch_size, 1),
            "shards": (self.shards, 1),
            "max-tokens": (self.max_tokens, 1),
        }  # fmt: skip
        for flag, (value, least) in limits.items():
            if value is not None and value < least:
                raise SpecError(f"--{flag} {value}: must be {least:g} or more.")
        for flag, rate in (("epochs", self.epochs), ("learning-rate", self.learning_rate)):
            if rate is not None and not 0 < rate < float("inf"):
                raise SpecError(f"--{flag} {rate:g}: must be above 0.")
        if self.pass_rate is not None and not 0 <= self.pass_rate <= 1:
            raise SpecError(f"--pass-rate {self.pass_rate:g}: must be a share from 0 to 1, such as 0.3.")
        if self.objective == "sft" and self.pass_rate is not None:
            raise SpecError("--pass-rate is of use with --objective rl only. Leave it out, or add --objective rl.")
