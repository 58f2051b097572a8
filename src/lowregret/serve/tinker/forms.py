"""What Tinker's clients may ask for: the bodies of SDKs from 0.24.1 on, and nothing else."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, model_validator

from lowregret import limits
from lowregret.engine.optim.adamw import AdamParams
from lowregret.serve.requests import STOPS, Asked, Texts, Tokens, check_stops, few
from lowregret.serve.tinker.tensors import DATA, NAMED

RANK = 512
"""The largest rank of a LoRA here."""
SAMPLES = 256
"""Sequences that one request may ask for."""
TOP = 256
"""Most likely tokens of a position that are told, at most."""
CHUNKS = 2**17
"""Of a prompt, at most: a token each, of the longest that is read where a base does not say how long (`UNSAID`)."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$"
"""Of a checkpoint."""
ID = r"^[A-Za-z0-9][A-Za-z0-9:_-]{0,127}$"
"""Of a session, a model or a sampler."""
PATH = 500
"""Characters of a tinker:// path, at most."""

Id = Annotated[str, Field(pattern=ID)]
Name = Annotated[str, Field(pattern=NAME)]
Number = Annotated[int, Field(ge=0, lt=2**62)]
Seconds = Annotated[int, Field(ge=1, le=limits.SECONDS)]
Metadata = Annotated[dict[str, Any], BeforeValidator(partial(few, most=100))]
Ints = Annotated[list[int], Field(fail_fast=True)]


class ClientConfig(Asked):
    """POST client/config."""

    sdk_version: str = Field(max_length=100)


class CreateSession(Asked):
    """POST create_session."""

    tags: Texts
    user_metadata: Metadata | None = None
    sdk_version: str = Field(max_length=100)
    project_id: str | None = Field(default=None, max_length=200)
    display_name: str | None = Field(default=None, max_length=200)
    type: Literal["create_session"] = "create_session"


class Heartbeat(Asked):
    """POST session_heartbeat."""

    session_id: Id
    type: Literal["session_heartbeat"] = "session_heartbeat"


class LoraConfig(Asked):
    """The LoRA of a new model."""

    rank: int = Field(ge=1, le=RANK)
    seed: int | None = Field(default=None, ge=0, lt=2**62)
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True

    @property
    def targets(self) -> tuple[str, ...]:
        """The groups of matrices."""
        named = (("attention", self.train_attn), ("mlp", self.train_mlp), ("unembedding", self.train_unembed))
        return tuple(name for name, on in named if on)

    @model_validator(mode="after")
    def _check_targets(self) -> LoraConfig:
        if not self.targets:
            raise ValueError("one of train_attn, train_mlp and train_unembed is needed")
        return self


class AdamConfig(Asked):
    """The one optimizer that there is."""

    type: Literal["adamw"] = "adamw"


class CreateModel(Asked):
    """POST create_model."""

    session_id: Id
    model_seq_id: Number
    base_model: str = Field(max_length=500)
    user_metadata: Metadata | None = None
    lora_config: LoraConfig = LoraConfig(rank=32)
    optimizer_config: AdamConfig = AdamConfig()
    type: Literal["create_model"] = "create_model"


class OfModel(Asked):
    """POST get_info and unload_model."""

    model_id: Id
    type: Literal["get_info", "unload_model"] | None = None


class Chunk(Asked):
    """A run of tokens."""

    tokens: Tokens
    type: Literal["encoded_text"] = "encoded_text"


class ModelInput(Asked):
    """A prompt, or a datum's input."""

    chunks: list[Chunk] = Field(max_length=CHUNKS)

    @property
    def tokens(self) -> list[int]:
        """All of it."""
        return [token for chunk in self.chunks for token in chunk.tokens]


class TensorData(Asked):
    """Numbers in a shape; compressed rows where the indices are given."""

    data: Ints | Annotated[list[float], Field(fail_fast=True)]
    dtype: Literal["float32", "int64"]
    shape: Annotated[list[int], Field(max_length=2)] | None = None
    sparse_crow_indices: Ints | None = None
    sparse_col_indices: Ints | None = None


class DatumForm(Asked):
    """A datum as JSON."""

    model_input: ModelInput
    loss_fn_inputs: Annotated[dict[str, TensorData], BeforeValidator(partial(few, most=NAMED))]


class PassingInput(Asked):
    """What is passed."""

    data: list[DatumForm] = Field(max_length=DATA)
    loss_fn: str = Field(max_length=50)
    loss_fn_config: Annotated[dict[str, float | str], BeforeValidator(partial(few, most=NAMED))] | None = None


class PassingForm(Asked):
    """POST forward_backward, and forward."""

    given: PassingInput = Field(validation_alias=AliasChoices("forward_backward_input", "forward_input"))
    model_id: Id
    seq_id: Number | None = None
    type: Literal["forward_backward", "forward"] | None = None


class AdamForm(Asked):
    """A step's hyper-parameters."""

    learning_rate: float = Field(default=0.0001, ge=0, le=limits.FACTOR)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-12, gt=0, le=1)
    """Above 0: B is zero at the start, and so is the gradient of A, which Adam divides by its own root and this."""
    weight_decay: float = Field(default=0.0, ge=0, le=limits.FACTOR)
    grad_clip_norm: float = Field(default=0.0, ge=0, le=limits.FACTOR)

    @property
    def params(self) -> AdamParams:
        """As the engine has them; a norm of 0 clips nothing."""
        return AdamParams(
            self.learning_rate,
            self.beta1,
            self.beta2,
            self.eps,
            self.weight_decay,
            clip_norm=self.grad_clip_norm or None,
        )


class OptimStep(Asked):
    """POST optim_step."""

    adam_params: AdamForm
    model_id: Id
    seq_id: Number | None = None
    type: Literal["optim_step"] = "optim_step"


class SaveWeights(Asked):
    """POST save_weights."""

    model_id: Id
    path: Name | None = None
    seq_id: Number | None = None
    ttl_seconds: Seconds | None = None
    overwrite: bool = False
    user_metadata: Metadata | None = None
    type: Literal["save_weights"] = "save_weights"


class SaveForSampler(Asked):
    """POST save_weights_for_sampler."""

    model_id: Id
    path: Name | None = None
    sampling_session_seq_id: Number | None = None
    kind: Literal["snapshot"] = "snapshot"
    seq_id: Number | None = None
    ttl_seconds: Seconds | None = None
    user_metadata: Metadata | None = None
    type: Literal["save_weights_for_sampler"] = "save_weights_for_sampler"

    @model_validator(mode="after")
    def _check_one(self) -> SaveForSampler:
        if (self.path is None) == (self.sampling_session_seq_id is None):
            raise ValueError("one of path and sampling_session_seq_id is needed")
        return self


class LoadWeights(Asked):
    """POST load_weights: into a model, or as a new one."""

    model_id: Id | None = None
    seq_id: Number | None = None
    session_id: Id | None = None
    model_seq_id: Number | None = None
    base_model: str | None = Field(default=None, max_length=500)
    user_metadata: Metadata | None = None
    path: str = Field(max_length=PATH)
    optimizer: bool
    optimizer_config: AdamConfig | None = None
    weights_access_token: None = None
    type: Literal["load_weights"] = "load_weights"

    @model_validator(mode="after")
    def _check_which(self) -> LoadWeights:
        fresh = self.session_id is not None and self.model_seq_id is not None
        if fresh == (self.model_id is not None):
            raise ValueError("model_id, or session_id and model_seq_id, are needed")
        return self


class WeightsInfo(Asked):
    """POST weights_info."""

    tinker_path: str = Field(max_length=PATH)


class CreateSampler(Asked):
    """POST create_sampling_session."""

    session_id: Id
    sampling_session_seq_id: Number
    base_model: str | None = Field(default=None, max_length=500)
    model_path: str | None = Field(default=None, max_length=PATH)
    type: Literal["create_sampling_session"] = "create_sampling_session"


class SamplingForm(Asked):
    """How sequences are drawn."""

    max_tokens: int | None = Field(default=None, ge=1, le=limits.TOKENS)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stop: str | Texts | Tokens | None = None
    temperature: float = Field(default=1.0, ge=0, le=100)
    top_k: int = Field(default=-1, ge=-1, le=limits.COUNT)
    top_p: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _check_stops(self) -> SamplingForm:
        if len(self.stops) > STOPS:
            raise ValueError(f"stop takes up to {STOPS} tokens or texts")
        check_stops([stop for stop in self.stops if isinstance(stop, str)])
        return self

    @property
    def stops(self) -> list[str | int]:
        """What ends a sequence, as it was given."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])


class SampleForm(Asked):
    """POST asample."""

    num_samples: int = Field(default=1, ge=1, le=SAMPLES)
    prompt: ModelInput
    sampling_params: SamplingForm
    sampling_session_id: Id
    seq_id: Number
    prompt_logprobs: bool | None = None
    topk_prompt_logprobs: int = Field(default=0, ge=0, le=TOP)
    topk_sample_logprobs: int = Field(default=0, ge=0, le=TOP)
    target_prompt_logprobs: TensorData | None = None
    prompt_alt_tokens_k: Literal[0] = 0
    prompt_logprobs_last_n: int | None = Field(default=None, ge=1)
    record_stability_info: Literal[False] | None = None
    type: Literal["sample"] = "sample"


class Retrieve(Asked):
    """POST retrieve_future."""

    request_id: str = Field(max_length=300)
    allow_metadata_only: bool = False
