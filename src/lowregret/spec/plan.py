"""What `lowregret plan` may be told; what is left open is advised. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, InstanceOf, ValidationError, field_validator, model_validator
from pydantic import ModelWrapValidatorHandler as Handler

from lowregret import limits
from lowregret.errors import SpecError, did_you_mean
from lowregret.spec.base import Spec, build
from lowregret.spec.keys import keys
from lowregret.spec.lean import fits_alone, require_mesh
from lowregret.spec.marks import TRAINING, CodeOnly, Flag, Unit
from lowregret.spec.mesh import Mesh, require_devices
from lowregret.spec.method import FullFT, LoRA, Method, parse_method
from lowregret.spec.optimizer import AdamW, OptimizerSpec, Schedule
from lowregret.spec.rl import RL

ObjectiveKind = Literal["sft", "rl"]
"""The `kind` of a spec's objective."""
_DATA, _RL = "Data", "Reinforcement learning"
_OF_ONE: Mapping[ObjectiveKind, tuple[str, ...]] = MappingProxyType(
    {"rl": ("group_size", "max_tokens", "pass_rate"), "sft": ("pilot", "schedule")}
)
"""Fields that one objective alone has a use for."""
_OUT_OF_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")
_BOUNDS: Mapping[str, str] = MappingProxyType(
    {"price": f"from 0 to {limits.FACTOR:,.0f}, per hour and device", "pass_rate": "a share from 0 to 1, such as 0.3"}
)
"""What an error says of a field's bounds, where that is more than what its help says."""


class PlanSpec(Spec):
    """What a plan is for, besides the model and the data."""

    objective: ObjectiveKind = "sft"
    """Supervised fine-tuning or reinforcement learning."""
    method: Annotated[Method | None, Flag(whole=True)] = None
    """The method: full, lora:RANK or lora:RANK:TARGETS; as advised when not given."""
    hardware: str | None = None
    """What to run on, a name such as H100, or auto for this machine; not judged when not given."""
    devices: Annotated[int, Unit("devices")] = Field(default=1, ge=1, le=limits.DEVICES)
    """How many of that hardware train together."""
    parallel: str | None = None
    """How they are arranged, such as fsdp=4,tensor=2, of replicate, fsdp, tensor and expert; as their memory allows
    when not given."""
    price: Annotated[float | None, Unit("per hour and device")] = Field(default=None, ge=0, le=limits.FACTOR)
    """What the hardware costs; that of the catalogue when not given."""
    eval_data: Annotated[str | None, Flag(group=_DATA)] = None
    """Held-out rows, of any source that training rows may have; a split of these when not given."""
    prompt_field: Annotated[str | None, Flag(group=_DATA)] = None
    """Column of the prompt; detected when not given."""
    completion_field: Annotated[str | None, Flag(group=_DATA)] = None
    """Column of the completion; detected when not given."""
    max_length: Annotated[int | None, Unit("tokens"), Flag(group=_DATA)] = Field(default=None, ge=2, le=limits.TOKENS)
    """Longest example; what the data need when not given."""
    pilot: Annotated[str | None, Flag(group=_DATA)] = None
    """A finished run or study on such data, which tells whether they teach or elicit, and how much; judged by a prior
    when not given."""
    batch_size: Annotated[int | None, Unit("examples"), Flag(group=TRAINING)] = Field(
        default=None, ge=1, le=limits.ROWS
    )
    """Examples per optimizer step, in reinforcement learning problems; as advised when not given."""
    epochs: Annotated[float | None, Unit("passes"), Flag(group=TRAINING)] = Field(default=None, gt=0, le=limits.EPOCHS)
    """Passes over the training data; as advised when not given."""
    steps: Annotated[int | None, Unit("steps"), Flag(group=TRAINING)] = Field(default=None, ge=1, le=limits.STEPS)
    """Optimizer steps, instead of `epochs`; as many as these take when not given."""
    learning_rate: Annotated[float | None, Flag(group=TRAINING)] = Field(default=None, gt=0, lt=1e3)
    """A rate to judge; as advised when not given."""
    schedule: Annotated[Schedule, Flag(group=TRAINING)] = "constant"
    """The learning rate after warm-up, as --schedule of `train`: the advised rate is its peak."""
    micro_batch_size: Annotated[int | None, Unit("examples"), Flag(group=TRAINING)] = Field(
        default=None, ge=1, le=limits.ROWS
    )
    """Examples per forward/backward; as many as fit when not given."""
    checkpoint_activations: Annotated[bool, Flag(group=TRAINING)] = False
    """Keep only the inputs of each layer and compute the rest again in the backward pass."""
    offload_activations: Annotated[bool, Flag(group=TRAINING)] = False
    """Keep in the host's memory what a pass on a GPU computes for its backward pass."""
    group_size: Annotated[int, Unit("completions"), Flag(group=_RL)] = Field(
        default=RL.model_fields["group_size"].default, ge=2, le=limits.ROWS
    )
    """Completions of each problem of a batch."""
    max_tokens: Annotated[int, Unit("tokens"), Flag(group=_RL)] = Field(
        default=RL.model_fields["max_tokens"].default, ge=1, le=limits.TOKENS
    )
    """Longest completion."""
    pass_rate: Annotated[float | None, Flag(group=_RL)] = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    """Share of the samples that are right; a half, where they say most, when not given."""
    optimizer: Annotated[InstanceOf[OptimizerSpec], CodeOnly()] = AdamW()
    """Whose state and traffic memory and time are counted with."""

    @field_validator("method", mode="before")
    @classmethod
    def _method(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            fields = parse_method(value)
        except ValueError as error:
            raise ValueError(f"--method: {error}") from None
        try:
            return build(FullFT, fields) if fields["kind"] == "full" else build(LoRA, fields)
        except SpecError as error:
            raise ValueError(str(error)) from None

    @property
    def mesh(self) -> Mesh | None:
        """The arrangement that was asked for."""
        return None if self.parallel is None else Mesh.parse(self.parallel)

    @field_validator("eval_data", "pilot", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return fspath(value) if isinstance(value, PathLike) else value

    @model_validator(mode="after")
    def _fits_together(self) -> PlanSpec:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give --epochs or --steps, not both")
        if self.checkpoint_activations and self.offload_activations:
            raise ValueError("give --checkpoint-activations or --offload-activations, not both")
        if (self.prompt_field is None) != (self.completion_field is None):
            raise ValueError("--prompt-field and --completion-field go together: name both or neither")
        if self.method is not None:
            fits_alone(self.method, self.devices)
        try:
            if self.mesh is not None:
                require_devices(self.mesh, self.devices)
                if self.method is not None:
                    require_mesh(self.method, self.mesh)
        except SpecError as error:
            raise ValueError(str(error)) from None
        for objective, names in _OF_ONE.items():
            given = [name for name in names if name in self.model_fields_set and getattr(self, name) is not None]
            if given and self.objective != objective:
                option = f"--{given[0].replace('_', '-')}"
                only = f"--objective {objective}"
                raise ValueError(f"{option} is of use with {only} only. Leave it out, or add {only}")
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _told_by_flag(cls, values: Any, handler: Handler[PlanSpec]) -> PlanSpec:
        """A plan has no file, so that its errors name flags."""
        try:
            return handler(values)
        except ValidationError as error:
            raise ValueError("\n".join(_sentence(problem) for problem in error.errors())) from None


OF_DATA = ("eval_data", "prompt_field", "completion_field", "pilot", "epochs", "pass_rate")
"""Fields that say something of the training data, and nothing without them."""


def needs_data(name: str) -> SpecError:
    """What is wrong with asking for `name`, of OF_DATA or an option of the verb's own, without data."""
    return SpecError(f"--{name.replace('_', '-')} needs data to plan for. Name them behind the model, or with --data.")


def _sentence(problem: Any) -> str:
    """What is wrong with one value, with a full stop."""
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ").rstrip(".")
    if problem["type"] == "value_error":
        return f"{message}."
    name, value = ".".join(str(part) for part in problem["loc"]), problem["input"]
    if problem["type"] == "extra_forbidden":
        return f"unknown option {name!r}. {did_you_mean(name, PlanSpec.model_fields)}"
    option = f"--{name.replace('_', '-')}"
    if name == "objective":
        return f"{option} {value!r}: {did_you_mean(str(value), get_args(ObjectiveKind))}"
    bounds = _BOUNDS.get(name) or next((key.bounds for key in keys(PlanSpec) if key.path == name), "")
    if bounds and problem["type"] in _OUT_OF_BOUNDS:
        given = f"{value:g}" if isinstance(value, float) else value
        return f"{option} {given}: must be {bounds}."
    return f"{option} {value!r}: {message}."
