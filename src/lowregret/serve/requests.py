"""What may be asked for: OpenAI's parameters, vLLM's further ones, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lowregret import limits
from lowregret.engine.sampling.draw import SamplingParams
from lowregret.serve.problems import Problem, invalid

STOPS = 16
"""Texts that end a completion, at most."""
STOP_CHARACTERS = 500
BIASES = 1024
MESSAGES = 4096
TOP = 20
"""Most likely tokens that are told, at most."""
COLD = 1e-6
"""Temperatures below are 0: logits divided by them may be none that float32 has."""
DEPTH = 64
"""Of lists and objects within each other."""


FIELDS = 100
"""Of an object of known fields, at most: pydantic writes out what is wrong with each before the first is told."""


def few(value: Any, most: int = FIELDS) -> Any:
    """A value that is no object of more fields than that; asked before any of them is looked at."""
    if isinstance(value, dict) and len(value) > most:
        raise ValueError(f"more than {most} fields")
    return value


def check_stops(texts: Sequence[str]) -> None:
    """ValueError for texts that are too long to be looked for, or no text: half of a surrogate pair has no bytes."""
    if any(not 0 < len(text) <= STOP_CHARACTERS for text in texts):
        raise ValueError(f"stop takes texts of 1 to {STOP_CHARACTERS} characters")
    if any("\ud800" <= letter <= "\udfff" for text in texts for letter in text):
        raise ValueError("stop: half of a surrogate pair is no text")


Texts = Annotated[list[str], Field(fail_fast=True)]
Tokens = Annotated[list[int], Field(fail_fast=True)]


class Asked(BaseModel):
    """A request's body."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_fields(cls, value: Any) -> Any:
        return few(value)


class StreamOptions(Asked):
    """How an answer is streamed."""

    include_usage: bool = False


class JsonSchema(Asked):
    """A schema that an answer is to fit."""

    name: str = Field(max_length=100)
    description: str | None = None
    schema_: dict[str, Any] | bool = Field(default=True, alias="schema")
    strict: bool | None = None


class ResponseFormat(Asked):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _check_form(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with the type json_schema")
        return self

    @property
    def schema_asked(self) -> dict[str, Any] | bool | None:
        """A JSON schema; None for text."""
        if self.json_schema is not None:
            return self.json_schema.schema_
        return {"type": "object"} if self.type == "json_object" else None


class Drawing(Asked):
    """What completions of chats and of texts have in common."""

    model: str = Field(max_length=500)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=1, ge=1, le=limits.REPEATS)
    max_tokens: int | None = Field(default=None, ge=1, le=limits.TOKENS)
    temperature: float | None = Field(default=1.0, ge=0, le=2)
    top_p: float | None = Field(default=1.0, gt=0, le=1)
    top_k: int | None = Field(default=0, ge=-1, le=limits.COUNT)
    min_p: float | None = Field(default=0.0, ge=0, le=1)
    presence_penalty: float | None = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=0.0, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=1.0, ge=0.01, le=10)
    logit_bias: (
        Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], BeforeValidator(partial(few, most=BIASES))]
        | None
    ) = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | Texts | None = None
    stop_token_ids: Tokens | None = Field(default=None, max_length=BIASES)
    ignore_eos: bool = False
    user: str | None = None
    """Who asks, for records that are not kept here."""
    metadata: Annotated[dict[str, str], BeforeValidator(few)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None

    @model_validator(mode="after")
    def _check(self) -> Drawing:
        texts = self.stop_texts
        if len(texts) > STOPS:
            raise ValueError(f"stop takes up to {STOPS} texts")
        check_stops(texts)
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is of use with stream alone")
        return self

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """Those that end a completion."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def choices(self) -> int:
        """Of each prompt."""
        return self.n or 1

    @property
    def usage_at_end(self) -> bool:
        """Whether a stream tells its tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def params(
        self,
        max_tokens: int,
        seed: int,
        top: int | None,
        ends: tuple[int, ...],
        texts: tuple[str, ...],
        vocabulary: int,
    ) -> SamplingParams:
        """How it is drawn. `ends` and `texts` are those of the base. Problem for tokens that it does not have."""
        bias = []
        for token, value in (self.logit_bias or {}).items():
            if not (token.isascii() and token.isdecimal() and len(token) < 10 and int(token) < vocabulary):
                raise Problem(
                    400, f"logit_bias: {token[:20]!r} is no token of 0 to {vocabulary - 1}.", param="logit_bias"
                )
            bias.append((int(token), value))
        for end in self.stop_token_ids or ():
            if not 0 <= end < vocabulary:
                raise Problem(400, f"stop_token_ids: no token of 0 to {vocabulary - 1}.", param="stop_token_ids")

        def given(value: float | None, default: float) -> float:
            return default if value is None else value

        return SamplingParams(
            max_tokens=max_tokens,
            temperature=0.0 if given(self.temperature, 1.0) < COLD else given(self.temperature, 1.0),
            top_p=given(self.top_p, 1.0),
            top_k=max(self.top_k or 0, 0),
            min_p=given(self.min_p, 0.0),
            repetition_penalty=given(self.repetition_penalty, 1.0),
            presence_penalty=given(self.presence_penalty, 0.0),
            frequency_penalty=given(self.frequency_penalty, 0.0),
            logit_bias=tuple(bias),
            top_logprobs=top,
            stop_ids=(*(() if self.ignore_eos else ends), *(self.stop_token_ids or ())),
            stop_texts=(*(() if self.ignore_eos else texts), *self.stop_texts),
            seed=seed,
        )


class ChatRequest(Drawing):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1, max_length=MESSAGES)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=limits.TOKENS)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(default=None, ge=0, le=TOP)
    tools: list[dict[str, Any]] | None = Field(default=None, max_length=BIASES)
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: Literal[True] | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _check_chat(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is of use with logprobs alone")
        return self

    @property
    def top(self) -> int | None:
        """How many likely tokens are told; None when nothing is."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TextRequest(Drawing):
    """POST /v1/completions."""

    prompt: str | Texts | Tokens | Annotated[list[Tokens], Field(fail_fast=True)]
    echo: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=TOP)
    suffix: None = None
    best_of: int | None = None

    @model_validator(mode="after")
    def _check_text(self) -> TextRequest:
        if self.best_of not in (None, self.choices):
            raise ValueError("best_of is n here, or left out")
        if self.echo and self.logprobs is not None:
            raise ValueError("echo goes without logprobs: those of prompts are not told")
        return self

    @property
    def top(self) -> int | None:
        """How many likely tokens are told; None when nothing is."""
        return self.logprobs


class LoadAdapter(Asked):
    """POST /v1/load_lora_adapter."""

    lora_name: str
    lora_path: str = Field(min_length=1, max_length=4096)
    load_inplace: bool = False


class UnloadAdapter(Asked):
    """POST /v1/unload_lora_adapter."""

    lora_name: str


A = TypeVar("A", bound=Asked)


def parse(kind: type[A], body: bytes) -> A:
    """A request's body as JSON of this kind. Problem 400 for all else."""
    try:
        value = json.loads(body, parse_constant=_refuse)
    except RecursionError:
        raise _deep() from None
    except ValueError as error:  # not UTF-8, a number of too many digits, NaN
        raise Problem(400, f"The body is no JSON: {str(error)[:200]}.") from None
    if _deeper(value, DEPTH):
        raise _deep()
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise invalid(error, kind.model_fields) from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _deep() -> Problem:
    return Problem(400, f"The body has more than {DEPTH} lists and objects within each other.")


def _deeper(value: Any, most: int) -> bool:
    """Whether lists and objects lie deeper within each other than that."""
    level = [value]
    for _ in range(most):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
