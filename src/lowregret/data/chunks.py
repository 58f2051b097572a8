"""Some hundreds of rows → a batch of the table, and what was found in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from lowregret.data.chat.encoding import encode_rows
from lowregret.data.example import Example
from lowregret.data.sources import Row
from lowregret.data.table import record_batch
from lowregret.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class EncodedChunk:
    """Some rows, encoded whole."""

    batch: pa.RecordBatch
    """Those that hold something to learn."""
    rows: int
    """How many the chat template took."""
    refused: list[tuple[int, str]] = field(default_factory=list)
    """(number, reason) of the others."""
    open_turns: int = 0
    remarks: dict[str, tuple[int, int]] = field(default_factory=dict)
    """What → (rows of which it is true, the number of the first of them)."""


def encode_chunk(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> EncodedChunk:
    """The rows as a batch of the table, and what was found on the way."""
    kept: list[tuple[int, Example]] = []
    refused: list[tuple[int, str]] = []
    remarks: dict[str, tuple[int, int]] = {}
    open_turns = 0
    for row, result in zip(rows, encode_rows(rows, tokenizer), strict=True):
        if isinstance(result, DataError):
            refused.append((row.line, str(result)))
            continue
        open_turns += result.open_turns
        for remark in dict.fromkeys(result.remarks):
            count, first = remarks.get(remark, (0, row.line))
            remarks[remark] = count + 1, first
        if result.example is not None:
            kept.append((row.line, result.example))
    return EncodedChunk(record_batch(kept), len(rows) - len(refused), refused, open_turns, remarks)
