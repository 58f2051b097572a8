"""Which examples train a policy and which judge it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lowregret.spec.base import Spec

DEFAULT_EVAL_FRACTION = 0.1


class DataSpec(Spec):
    """Training data and held-out data, and how rows become examples."""

    train: str
    """A .jsonl, .json, .csv or .parquet file, a hub dataset id, or `builtin:NAME[:key=value,…]`."""
    eval: str | None = None
    """Held-out data of the same forms; a split of `train` when not given."""
    prompt_field: str | None = None
    """Column of the prompt; detected when not given."""
    completion_field: str | None = None
    """Column of the completion, the only tokens that are supervised; detected when not given."""
    max_length: int = Field(default=512, ge=2)
    """Longest example in tokens."""
    overlong: Literal["cut", "drop"] = "cut"
    """What becomes of an example over `max_length`: its tail is cut, or it is dropped; counted either way."""
    max_train: int | None = Field(default=None, ge=1)
    """Use only the first so many training examples."""
    max_eval: int | None = Field(default=None, ge=1)
    """Use only the first so many held-out examples."""
    eval_fraction: float = Field(default=DEFAULT_EVAL_FRACTION, gt=0, lt=1)
    """Share of `train` held out when `eval` is not given."""
    split_seed: int = Field(default=0, ge=0)
    """Seed of that split; independent of the trial seeds, so that all trials share one held-out set."""
    skip_bad_rows: bool = False
    """Go on past broken rows and report them, instead of stopping at the first."""

    @model_validator(mode="after")
    def _both_or_neither(self) -> DataSpec:
        if (self.prompt_field is None) != (self.completion_field is None):
            raise ValueError("prompt_field and completion_field go together: name both or neither")
        if self.eval is not None and self.eval_fraction != DEFAULT_EVAL_FRACTION:
            raise ValueError("eval_fraction is of no use beside eval data: leave one of them out")
        return self
