"""What requests make the engine do, once they have been read: the tasks of a trainer's queues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lowregret.engine.optim.adamw import AdamParams
from lowregret.serve.tinker.ledger import Kept
from lowregret.serve.tinker.tensors import Array, Passing


@dataclass(frozen=True)
class Create:
    """Put a policy on the base."""


@dataclass(frozen=True)
class Step:
    """Step a policy's optimizer."""

    params: AdamParams


@dataclass(frozen=True)
class Save:
    """Write a policy's weights and its optimizer's state."""

    path: str
    overwrite: bool
    about: dict[str, Any]


@dataclass(frozen=True)
class Export:
    """Write a policy's weights to draw by: under a path, or for a sampler of this name."""

    path: str | None
    sampler: str | None
    session: str
    about: dict[str, Any]


@dataclass(frozen=True)
class Load:
    """Put a saved state into a policy, which is new where `fresh`."""

    path: str
    optimizer: bool
    fresh: bool


Work = Create | Passing | Step | Save | Export | Load


@dataclass(frozen=True, eq=False)
class Task:
    """A request and its work; it waits for its turn among its model's."""

    asked: Kept
    work: Work

    @property
    def model(self) -> str:
        """The policy's name."""
        return self.asked.owner


@dataclass(frozen=True, eq=False)
class Score:
    """Log-probabilities of a prompt's tokens, asked of a policy or of the base."""

    policy: str
    prompt: Sequence[int]
    top: int
    """Of so many most likely tokens at each position, too."""
    targets: Array | None = None
    """Others to be told of at each position [tokens − 1, K]; −1 asks nothing."""
