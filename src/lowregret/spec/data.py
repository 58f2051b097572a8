"""Which examples train a policy and which judge it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lowregret import limits
from lowregret.spec.base import Spec
from lowregret.spec.marks import Flag, Unit

DEFAULT_EVAL_FRACTION = 0.1


class DataSpec(Spec):
    """Training data and held-out data, and how rows become examples."""

    train: Annotated[str, Flag(name="data")]
    """Training rows: a .jsonl, .ndjson, .json, .csv, .tsv, .parquet or .arrow file, a .txt with a table or JSON Lines
    (text also compressed: .gz, .bz2, .xz, .zst); several, or patterns such as 'data/*.jsonl', with commas between; a
    folder of such files, or one that `save_to_disk` wrote; a hub dataset id; or `builtin:NAME[:key=value,…]`."""
    eval: Annotated[str | None, Flag(name="eval_data")] = None
    """Held-out rows of the same forms; a split of the training rows when not given."""
    prompt_field: str | None = None
    """Column of the prompt; detected when not given."""
    completion_field: str | None = None
    """Column of the completion, the only tokens that are supervised; detected when not given."""
    chat_template: str | None = None
    """Name of the chat template, for a tokenizer that has several; its `default` when not given."""
    max_length: Annotated[int, Unit("tokens")] = Field(default=512, ge=2, le=limits.TOKENS)
    """Longest example; `overlong` says what becomes of longer ones."""
    overlong: Literal["cut", "drop"] = "cut"
    """What becomes of an example over `max_length`: its tail is cut, or it is dropped; counted either way."""
    max_train: Annotated[int | None, Unit("examples")] = Field(default=None, ge=1, le=limits.EXAMPLES)
    """Use only the first so many training examples; all when not given."""
    max_eval: Annotated[int | None, Unit("examples")] = Field(default=None, ge=1, le=limits.EXAMPLES)
    """Use only the first so many held-out examples; all when not given, but for `compare`: as many as keep all
    evaluations of a trial within a fifth of its training, 8 at least; with rewards all, too."""
    eval_fraction: float = Field(default=DEFAULT_EVAL_FRACTION, gt=0, lt=1)
    """Share of the training rows that is held out when there are no `eval` rows."""
    split_seed: int = Field(default=0, ge=0, le=limits.SEED)
    """Seed of the split into training and held-out rows; independent of the trial seeds, so that all trials
    share one held-out set."""
    skip_bad_rows: bool = False
    """Go on past broken rows and report them, instead of stopping at the first."""

    @model_validator(mode="after")
    def _both_or_neither(self) -> DataSpec:
        if (self.prompt_field is None) != (self.completion_field is None):
            raise ValueError("prompt_field and completion_field go together: name both or neither")
        if self.eval is not None and self.eval_fraction != DEFAULT_EVAL_FRACTION:
            raise ValueError("eval_fraction is of no use beside eval data: leave one of them out")
        return self
