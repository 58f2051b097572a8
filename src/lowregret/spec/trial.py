"""One training with every choice fixed, and what all trials of a study share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from lowregret import limits
from lowregret.errors import SpecError
from lowregret.spec.base import Spec
from lowregret.spec.data import DataSpec
from lowregret.spec.lean import all_used, fits_alone, fits_one_pass, fits_precision, require_mesh, steps_in_backward
from lowregret.spec.marks import MACHINE, TRAINING, Flag, Unit
from lowregret.spec.mesh import Mesh, require_devices
from lowregret.spec.method import DEFAULT_TARGETS, FullFT, LoRA, Method, Quantisation, spell_targets
from lowregret.spec.optimizer import AdamW, Optimizer, OptimizerSpec, stepped_by
from lowregret.spec.rl import OWN_PROBLEMS, RL, SFT, Objective, objective_kind

Count = Annotated[int, Field(ge=1, le=limits.STEPS)]


def _evaluations(value: Any) -> Any:
    """A flag's text: a number, or steps with commas between."""
    if not isinstance(value, str):
        return value
    words = [word.strip() for word in value.strip().removesuffix(",").split(",")]
    if not all(word.isdecimal() and len(word) < 20 for word in words):
        raise ValueError("give a number of evaluations, such as 12, or steps, such as 10,20,40")
    return int(words[0]) if len(words) == 1 and "," not in value else tuple(map(int, words))


class TrainingSpec(Spec):
    """Everything that the trials of one comparison have in common."""

    FREE: ClassVar[tuple[str, ...]] = (
        "checkpoint_seconds",
        "micro_batch_size",
        "memory_gb",
        "checkpoint_activations",
        "offload_activations",
        "devices",
        "parallel",
        "replies",
        "until_decided",
    )
    """Fields that a run in progress may change: results depend on them by rounding at most."""

    model: str
    """A Hugging Face folder, a hub id, a .gguf file, or a bundled base."""
    data: DataSpec
    objective: Objective = SFT()
    """`sft`, supervised; or `rl`: sample completions and follow their rewards. In a file a table with kind = "rl"."""
    batch_size: Annotated[int, Unit("examples"), Flag(group=TRAINING)] = Field(default=8, ge=1, le=limits.ROWS)
    """Examples per optimizer step; with reinforcement learning, problems per batch of samples."""
    micro_batch_size: Annotated[int | None, Unit("examples"), Flag(group=MACHINE)] = Field(
        default=None, ge=1, le=limits.ROWS
    )
    """At most so many examples of a trial per forward/backward; as many as `memory_gb` allows when not given. Changes
    memory, not results."""
    memory_gb: Annotated[float | None, Unit("10⁹ bytes"), Flag(group=MACHINE)] = Field(
        default=None, gt=0, le=limits.FACTOR
    )
    """For the activations that one forward/backward keeps; half of what weights, gradients and moments leave of the
    device's memory when not given. A step that needs more is done in several passes. On a CPU passes are no larger than
    pays in any case. Changes memory and time, not results."""
    checkpoint_activations: Annotated[bool, Flag(group=MACHINE)] = False
    """Keep only the inputs of each layer and compute the rest again in the backward pass. That is a fraction of the
    memory for one more forward pass, so about half more arithmetic with LoRA and a third more with FullFT. Changes no
    bit of the results."""
    offload_activations: Annotated[bool, Flag(group=MACHINE)] = Field(
        default=False, exclude_if=lambda value: value is False
    )
    """Keep in the host's memory what a pass on a GPU computes for its backward pass, and fetch it when that needs it.
    Changes no bit of the results. Not with `checkpoint_activations`, which keeps next to nothing."""
    balance_experts: Annotated[bool, Flag(group=TRAINING)] = Field(
        default=False, exclude_if=lambda value: value is False
    )
    """Train on the load-balancing loss of a mixture of experts too, with both methods. It is the one that the base's
    own code defines, with its own coefficient. The losses that are reported are without it. It is an error for a base
    that defines none."""
    epochs: Annotated[float | None, Unit("passes"), Flag(group=TRAINING)] = Field(default=None, gt=0, le=limits.EPOCHS)
    """Passes over the training data; 1 when not given and no `steps` are."""
    steps: Annotated[int | None, Unit("steps"), Flag(group=TRAINING)] = Field(default=None, ge=1, le=limits.STEPS)
    """Optimizer steps, instead of `epochs`; as many as these take when not given."""
    optimizer: Optimizer = AdamW()
    precision: Annotated[Literal["auto", "float32", "bfloat16"], Flag(group=MACHINE)] = "auto"
    """Of the frozen base and the arithmetic; auto is float32 on a CPU, bfloat16 on a GPU. Trained weights stay
    float32, but for those of methods that say otherwise, such as full:bf16."""
    device: Annotated[str, Flag(group=MACHINE)] = "auto"
    """Where to train: `cpu`, `cuda`, `cuda:1`, …; auto is the first GPU if there is one, else the CPU."""
    devices: Annotated[int, Unit("devices"), Flag(group=MACHINE)] = Field(
        default=1, ge=1, le=limits.DEVICES, exclude_if=lambda value: value == 1
    )
    """How many devices train together, a process each: GPUs, or on a CPU so many processes. A LoRA's base is whole on
    each of them, and each takes its share of the rows; of FullFT each holds a part of weights, gradients and moments.
    Changes results by rounding at most. Under torchrun it is the number of its processes."""
    parallel: Annotated[str | None, Flag(group=MACHINE)] = Field(default=None, exclude_if=lambda value: value is None)
    """How these devices are arranged, such as fsdp=4,tensor=2, of replicate, fsdp, tensor and expert; as their memory
    allows when not given, which is what `plan --devices` says. With fsdp above 1 a LoRA's base lies in parts, too."""
    evals: Annotated[
        Count | tuple[Count, ...],
        BeforeValidator(_evaluations),
        Unit("evaluations"),
        Flag(group=TRAINING, reads="text"),
    ] = 8
    """Held-out evaluations per trial: the last after the last step, each other a factor of √2 before the next, so that
    they make a curve from a twelfth of the run on; with rewards 2 when not given. Or the steps after which to evaluate,
    such as 10,20,40; the last step is always one of them."""
    checkpoint_seconds: Annotated[float, Unit("seconds"), Flag(group=MACHINE)] = Field(
        default=60.0, ge=0, le=limits.SECONDS
    )
    """Wall time between resumable checkpoints; 0 writes one after every step."""

    @model_validator(mode="before")
    @classmethod
    def _evals_of_rewards(cls, values: Any) -> Any:
        """Rewards cost samples: two evaluations, unless more are asked for."""
        return {"evals": 2, **values} if objective_kind(values) == "rl" else values

    @property
    def trains_base(self) -> bool:
        """Whether a FullFT is among its methods."""
        return any(isinstance(method, FullFT) for method in self.asked)

    @property
    def asked(self) -> tuple[FullFT | LoRA, ...]:
        """The methods that it trains."""
        return ()

    def stepped_by(self, method: FullFT | LoRA) -> OptimizerSpec:
        """The optimizer of a method, with the run's hyper-parameters."""
        return stepped_by(method.optimizer, self.optimizer)

    @property
    def quantisations(self) -> tuple[Quantisation, ...]:
        """Of the bases under its methods, each of which is an engine's: the base as it is first."""
        return tuple(sorted({method.quantisation for method in self.asked}, key=get_args(Quantisation).index))

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("epochs") is None and values.get("steps") is None:
            return {**values, "epochs": 1.0}
        return values

    @model_validator(mode="before")
    @classmethod
    def _long_prompts_drop(cls, values: Any) -> Any:
        """A prompt that is cut asks for something else: with rewards, `drop` is what there is. Runs after the next."""
        data = values.get("data") if objective_kind(values) == "rl" else None
        if isinstance(data, dict):
            return {**values, "data": {"overlong": "drop", **data}}
        if isinstance(data, DataSpec) and "overlong" not in data.model_fields_set:
            return {**values, "data": data.model_copy(update={"overlong": "drop"})}
        return values

    @model_validator(mode="before")
    @classmethod
    def _own_problems(cls, values: Any) -> Any:
        """A task that brings its problems names the data, so that no other can be meant."""
        objective = values.get("objective") if isinstance(values, dict) else None
        task = objective.get("task") if isinstance(objective, dict) else getattr(objective, "task", None)
        if not isinstance(task, str) or not task.startswith(OWN_PROBLEMS):
            return values
        data = values.get("data") or {}
        return {**values, "data": {"train": task, **data}} if isinstance(data, dict) else values

    @model_validator(mode="after")
    def _data_for_rewards(self) -> TrainingSpec:
        if not isinstance(self.objective, RL):
            return self
        if self.objective.own_problems and (self.data.train != self.objective.task or self.data.eval is not None):
            raise ValueError(f"the task {self.objective.task} brings its own problems: leave the data out")
        if self.data.overlong != "drop":
            raise ValueError("overlong: with objective rl, prompts over max_length are always dropped: use drop")
        return self

    @model_validator(mode="after")
    def _arranged(self) -> TrainingSpec:
        if self.parallel is not None:
            try:
                mesh = Mesh.parse(self.parallel)
                if self.devices > 1:  # under torchrun its processes are counted when they have met
                    require_devices(mesh, self.devices)
                for method in self.asked:
                    require_mesh(method, mesh)
            except SpecError as error:
                raise ValueError(f"parallel: {error}") from None
        return self

    @model_validator(mode="after")
    def _steppable(self) -> TrainingSpec:
        """Methods that bring their own optimizer can be stepped as the run asks."""
        all_used(self.optimizer, self.asked)
        for method in self.asked:
            fits_alone(method, self.devices)
            if self.precision != "auto":
                fits_precision(method, self.precision)
            fits_one_pass(
                method,
                clip_norm=self.optimizer.clip_norm,
                batch_size=self.batch_size,
                micro_batch_size=self.micro_batch_size,
                rewards=isinstance(self.objective, RL),
            )
        if self.memory_gb is not None and self.asked and all(map(steps_in_backward, self.asked)):
            raise ValueError(
                f"memory_gb cuts a step into passes, and {self.asked[0].name} takes each in one: leave it out, or use "
                "checkpoint_activations"
            )
        if self.offload_activations and self.checkpoint_activations:
            raise ValueError("offload_activations and checkpoint_activations: give one of them, not both")
        return self

    @model_validator(mode="after")
    def _not_both(self) -> TrainingSpec:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give epochs or steps, not both")
        return self


class TrialSpec(Spec):
    """What distinguishes one trial from the others of its study."""

    method: Method
    learning_rate: float = Field(gt=0, lt=1e3)
    seed: int = Field(default=0, ge=0, le=limits.SEED)
    """Draws the initial A of a LoRA and the order of the examples."""

    @property
    def id(self) -> str:
        """A folder name: unique within a study and readable.

        It spells `all` out, because before 0.3.0 a name without targets meant attention and mlp. In a folder of that
        time a trial keeps the id that it has there (`runs.study.trial_name`): which trial it is, this spec alone says.
        """
        method = self.method.name
        if isinstance(self.method, LoRA) and self.method.targets == DEFAULT_TARGETS:
            method += f":{spell_targets(DEFAULT_TARGETS)}"
        return trial_id(method, self.learning_rate, self.seed)


def require_rates_apart(rates: Sequence[float]) -> None:
    """ValueError for two learning rates whose trials would have one id, and so one folder: it shows six digits."""
    shown: dict[str, float] = {}
    for rate in rates:
        other = shown.setdefault(f"{rate:{_RATE}}", rate)
        if other != rate:
            raise ValueError(
                f"learning_rates: {other!r} and {rate!r} are both {rate:{_RATE}} in six digits, by which the folder of "
                "a trial is named: leave one of them out"
            )


_RATE = ".6g"
"""How an id has the learning rate."""


def trial_id(method: str, learning_rate: float, seed: int) -> str:
    """What a trial of a method of this name is called."""
    name = "".join(c if c.isalnum() or c in "-+." else "-" for c in method)
    if ":re:" in method:  # regexes may differ in what a folder name cannot show, or be longer than one may be
        name = f"{name[:40]}-{hashlib.sha256(method.encode()).hexdigest()[:8]}"
    return f"{name}_lr{learning_rate:{_RATE}}_seed{seed}"


class ShownSpec(TrainingSpec):
    """A training whose result is shown at work: what the trials of a study of the post are not."""

    replies: Annotated[int, Unit("prompts")] = Field(default=8, ge=0, le=limits.REPLIES)
    """Held-out prompts that the base and the trained model answer, for the report and replies.json; 0 for none. Changes
    no number of the run."""


class TrainSpec(ShownSpec):
    """`lowregret train`: one trial on its own."""

    method: Method = LoRA(rank=16)
    """What is trained: `full`, `lora:RANK` or `lora:RANK:TARGETS`."""
    learning_rate: Annotated[float, Field(gt=0, lt=1e3)] | Literal["auto"] = "auto"
    """A number, or auto: the plan's prior for this base, method, batch and steps (plan/rates/recommend.py)."""
    seed: int = Field(default=0, ge=0, le=limits.SEED)
    """Draws the initial A of a LoRA and the order of the examples."""

    @property
    def asked(self) -> tuple[Method, ...]:
        return (self.method,)
