"""The shape of `proof.json`: that what is shipped is the model that was trained, shown on the written files."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from lowregret.runs.record import Record

PROOF = "proof.json"


class LossBothWays(Record):
    """The held-out loss of the model that was trained, and of what was written."""

    trained: float
    """Nats per supervised token."""
    shipped: float
    quantised: float | None = None
    """As it was trained, over a base in 4 bits; the other two are over the base as it is. None without one."""
    examples: int
    tokens: int
    """Supervised ones."""


@dataclass(frozen=True)
class Bound:
    """How far the answers of what is shipped may be from the trained model's."""

    largest: float
    """Of the differences that the proof compares, in nats or in logits."""
    mean: float
    loss: float
    """Of the held-out loss, in nats per supervised token."""

    @property
    def said(self) -> str:
        """In words."""
        return (
            f"differences of at most {self.largest:g}, {self.mean:g} in the mean; the held-out loss within "
            f"{self.loss:g} nats per token"
        )

    def holds(self, largest: float, mean: float, held_out: LossBothWays | None) -> bool:
        """Whether these differences are within it."""
        moved = 0.0 if held_out is None else abs(held_out.shipped - held_out.trained)
        return largest <= self.largest and mean <= self.mean and moved <= self.loss


class Proof(Record):
    """How what was written answers, loaded by a program that has no part in writing it, beside the trained model."""

    form: str
    """`peft`, `merged`, `gguf`, …"""
    precision: str
    """In which the weights are written: float32, bfloat16, Q8_0, …"""
    reader: str
    """The program that loaded the written files, with its version."""
    reference: str
    """What it was held against: the program and how it had the trained model."""
    texts: int
    positions: int
    """At which the next token's distribution was compared."""
    compared: str
    """What the differences are of: `logits`, or `top-200 log-probabilities`."""
    largest_difference: float | None
    """None where the model is too large to be loaded here; `note` says so."""
    mean_difference: float | None
    top_token_agrees: float | None = None
    """Share of the positions at which both have the same most probable token."""
    same_token_ids: bool | None = None
    """Where the reader has a tokenizer of its own: whether it read each text as the same tokens."""
    same_greedy_tokens: int | None = None
    """Of a greedy continuation: how many tokens were the same before the first that was not."""
    greedy_tokens: int | None = None
    """Of how many."""
    held_out: LossBothWays | None = None
    """None without held-out data."""
    updates_lost: float | None = None
    """Share of the entries with an update that the rounding gave back to the base; None where nothing is added to
    the base's weights."""
    bound: str
    """What had to hold, in words and numbers."""
    holds: bool
    seconds: float
    bytes: int
    """Of all files."""
    files: dict[str, str] = Field(default_factory=dict)
    """File → SHA-256, of the weights that were loaded."""
    note: str | None = None
