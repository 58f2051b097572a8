"""What `lowregret plan` may be told; what is left open is advised. Torch-free.

The plan itself judges the values, and in its own words: a plan is asked for from Python as well.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lowregret.spec.base import Spec
from lowregret.spec.marks import TRAINING, Flag, Unit
from lowregret.spec.rl import RL

_DATA, _RL = "Data", "Reinforcement learning"


class PlanSpec(Spec):
    """What a plan is for, besides the model and the data."""

    objective: Literal["sft", "rl"] = "sft"
    """Supervised fine-tuning or reinforcement learning."""
    method: str | None = None
    """The method: full, lora:RANK or lora:RANK:TARGETS; as advised when not given."""
    hardware: str | None = None
    """What to run on, a name such as H100, or auto for this machine; not judged when not given."""
    shards: Annotated[int, Unit("devices")] = Field(default=1, ge=1)
    """Devices that share weights, gradients and moments (FSDP)."""
    price: Annotated[float | None, Unit("per hour and device")] = Field(default=None, ge=0)
    """What the hardware costs; that of the catalogue when not given."""
    eval_data: Annotated[str | None, Flag(group=_DATA)] = None
    """Held-out rows, of any source that training rows may have; a split of these when not given."""
    prompt_field: Annotated[str | None, Flag(group=_DATA)] = None
    """Column of the prompt; detected when not given."""
    completion_field: Annotated[str | None, Flag(group=_DATA)] = None
    """Column of the completion; detected when not given."""
    max_length: Annotated[int | None, Unit("tokens"), Flag(group=_DATA)] = Field(default=None, ge=2)
    """Longest example; what the data need when not given."""
    pilot: Annotated[str | None, Flag(group=_DATA)] = None
    """A finished run or study on such data, which tells whether they teach or elicit, and how much; judged by a prior
    when not given."""
    batch_size: Annotated[int | None, Unit("examples"), Flag(group=TRAINING)] = Field(default=None, ge=1)
    """Examples per optimizer step, in reinforcement learning problems; as advised when not given."""
    epochs: Annotated[float | None, Unit("passes"), Flag(group=TRAINING)] = Field(default=None, gt=0)
    """Passes over the training data; as advised when not given."""
    steps: Annotated[int | None, Unit("steps"), Flag(group=TRAINING)] = Field(default=None, ge=1)
    """Optimizer steps, instead of `epochs`; as many as these take when not given."""
    learning_rate: Annotated[float | None, Flag(group=TRAINING)] = Field(default=None, gt=0)
    """A rate to judge; as advised when not given."""
    micro_batch_size: Annotated[int | None, Unit("examples"), Flag(group=TRAINING)] = Field(default=None, ge=1)
    """Examples per forward/backward; as many as fit when not given."""
    checkpoint_activations: Annotated[bool, Flag(group=TRAINING)] = False
    """Keep only the inputs of each layer and compute the rest again in the backward pass."""
    group_size: Annotated[int, Unit("completions"), Flag(group=_RL)] = Field(
        default=RL.model_fields["group_size"].default, ge=1
    )
    """Completions of each problem of a batch."""
    max_tokens: Annotated[int, Unit("tokens"), Flag(group=_RL)] = Field(
        default=RL.model_fields["max_tokens"].default, ge=1
    )
    """Longest completion."""
    pass_rate: Annotated[float | None, Flag(group=_RL)] = Field(default=None, ge=0, le=1)
    """Share of the samples that are right; a half, where they say most, when not given."""
