"""How `lowregret serve` answers: where, how much at a time, and how long."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lowregret import limits
from lowregret.spec.base import Spec
from lowregret.spec.marks import MACHINE, Flag, Unit


class ServeSpec(Spec):
    """A server of one base and the adapters on it."""

    engine: Literal["own", "vllm"] = "own"
    """What answers: this program, or `vllm serve`, which is started in its place with the same base, adapters and key.
    """
    host: str = "127.0.0.1"
    """The address to listen at; one that others reach, such as 0.0.0.0, needs an API key."""
    port: int = Field(default=8000, ge=0, le=65535)
    """The port to listen at; 0 takes a free one."""
    max_rows: int = Field(default=32, ge=1, le=limits.ROWS)
    """Completions that are drawn at once; others wait."""
    max_waiting: int = Field(default=256, ge=0, le=limits.ROWS)
    """Completions that may wait for a place; requests beyond are refused with 429."""
    max_choices: int = Field(default=16, ge=1, le=limits.REPEATS)
    """Completions that one request may ask for, over all its prompts."""
    max_body: Annotated[int, Unit("bytes")] = Field(default=2 * limits.MEGABYTE, ge=1024, le=1024 * limits.MEGABYTE)
    """Size of a request, at most."""
    max_connections: int = Field(default=2048, ge=1, le=limits.ROWS)
    """Connections that are open at once, at most; more are refused with 503."""
    header_seconds: Annotated[float, Unit("seconds")] = Field(default=10, gt=0, le=limits.SECONDS)
    """Time for a client to send a request's headers."""
    body_seconds: Annotated[float, Unit("seconds")] = Field(default=30, gt=0, le=limits.SECONDS)
    """Time for a client to send the rest of a request."""
    answer_seconds: Annotated[float, Unit("seconds")] = Field(default=600, gt=0, le=limits.SECONDS)
    """Time for an answer, waiting included; then it ends with an error."""
    stop_seconds: Annotated[int, Unit("seconds")] = Field(default=30, ge=1, le=limits.SECONDS)
    """Time that answers have to end after Ctrl-C or SIGTERM; then they are cut."""
    prefix_memory: Annotated[int, Unit("bytes")] = Field(default=256 * limits.MEGABYTE, ge=0, le=limits.EXAMPLES * 1000)
    """Memory for what conversations have in common, so that it is not read again; 0 keeps nothing."""
    max_adapters: int = Field(default=256, ge=1, le=limits.ROWS)
    """Adapters that are loaded at once, at most."""
    max_models: int = Field(default=16, ge=1, le=limits.ROWS)
    """Models that Tinker's clients train at once, at most; others wait on the disk until they are asked for."""
    pass_tokens: int = Field(default=2048, ge=1, le=limits.TOKENS)
    """Tokens of a pass in which Tinker's clients train, at most; what they send is cut into as many as it needs."""
    max_training_body: Annotated[int, Unit("bytes")] = Field(
        default=64 * limits.MEGABYTE, ge=1024, le=1024 * limits.MEGABYTE
    )
    """Size of a request of Tinker's clients, at most."""
    chat_template: str | None = None
    """Which of the tokenizer's chat templates, where it has several; the one that is called `default` when not given.
    """
    precision: Annotated[Literal["auto", "float32", "bfloat16"], Flag(group=MACHINE)] = "auto"
    """Of the base and the arithmetic; auto is float32 on a CPU, bfloat16 on a GPU."""
    device: Annotated[str, Flag(group=MACHINE)] = "auto"
    """Where to run: `cpu`, `cuda`, `cuda:1`, …; auto is the first GPU if there is one, else the CPU."""
