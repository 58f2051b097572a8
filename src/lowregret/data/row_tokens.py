"""Tokens of rows without torch.

By the model's own tokenizer file on a sample of them, where there is one; else by what they are written in.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowregret.data.chat.compiled import REFUSES, FolderTemplate, compile_template, read_template, with_fixed_date
from lowregret.data.chat.forms import forms
from lowregret.data.facts import Counted, ExampleLength
from lowregret.data.scripts import count_runs, units
from lowregret.data.sources import Row
from lowregret.data.token_estimate import Estimate, describe, estimate, factors_of
from lowregret.data.turns import says_something
from lowregret.data.vocabulary import open_tokenizer
from lowregret.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SAMPLE = 1024
"""Rows that go through the tokenizer; it takes a second for a million characters."""
_READ = 2048
"""Rows whose scripts are told apart, and through which the chat template is tried."""
_TEMPLATE_TOKENS = 5
"""A turn's header and end in the usual chat templates."""
_PERCENT = 0.6
"""A range that is wider is stated as a factor: it is one, and more than all cannot be missing."""
_EVIDENCE = 100
"""Letters that tell a language; where a row has fewer, all rows together do."""


@dataclass(frozen=True)
class RowTokens:
    """The tokens of some rows."""

    lengths: list[ExampleLength]
    counted: Counted
    how: str
    """Where they come from, as a phrase."""


@dataclass(frozen=True)
class Refused:
    """What a chat template says of rows."""

    tried: int
    """Rows that it was given: at most 2,048, drawn from all."""
    reasons: Mapping[int, str]
    """rank of the row → why the template refuses it."""


def try_template(rows: Sequence[Row], template: FolderTemplate) -> Refused:
    """Which rows the chat template refuses, as the trainer's would. Raises ModelError when it does not compile."""
    compile_template(with_fixed_date(template.template))
    reasons: dict[int, str] = {}
    tried = 0
    for rank in _chosen(rows, _READ):
        if rows[rank].messages is None:
            continue
        tried += 1
        try:
            _written(rows[rank], template)
        except DataError as error:
            reasons[rank] = str(error).removeprefix(REFUSES)
    return Refused(tried, reasons)


def _written(row: Row, template: FolderTemplate) -> str:
    """A chat as the template writes it, in the first form that it takes. Raises the DataError of the first."""
    refusal: DataError | None = None
    for messages in forms(row.messages or ()):
        try:
            return template.render(messages, row.tools)
        except DataError as error:
            refusal = refusal or error
    assert refusal is not None
    raise refusal


def open_template(folder: Path | None) -> FolderTemplate | None:
    """The chat template of a model's folder, if there is one."""
    return None if folder is None else read_template(folder)


def count_rows(
    rows: Sequence[Row], folder: Path | None, template: FolderTemplate | None, vocabulary: int | None
) -> RowTokens:
    """Tokens of every row.

    Args:
        rows: of one source.
        folder: where tokenizer.json lies, or None.
        template: a chat template that compiles and renders at least one of the rows.
        vocabulary: rows of the base's embedding, by which estimates know its vocabulary.
    """
    tokenizer = _open_tokenizer(folder)
    if tokenizer is None:
        return _estimated(rows, vocabulary)
    ranks = _chosen(rows, _SAMPLE)
    exact = [_exact(rows[rank], tokenizer, template) for rank in ranks]
    if len(exact) == len(rows):
        return RowTokens(exact, "exact", "the model's tokenizer")
    said = f"the model's tokenizer on {len(exact):,} of {len(rows):,} rows"
    return RowTokens(_spread(rows, exact, ranks), "sampled", said)


def _chosen(rows: Sequence[Row], most: int) -> list[int]:
    """The ranks of at most so many rows: drawn, for every n-th row of a file may be of one kind; always the same."""
    return sorted(random.Random(0).sample(range(len(rows)), min(len(rows), most)))


def _spread(rows: Sequence[Row], sample: Sequence[ExampleLength], ranks: Sequence[int]) -> list[ExampleLength]:
    """The lengths of all rows, from those of the rows of these ranks: by their characters."""
    letters = [(_characters(_texts(row)), _characters(_supervised(row))) for row in rows]
    chosen = [letters[rank] for rank in ranks]
    whole, supervised = (max(sum(part), 1) for part in zip(*chosen, strict=True))
    a_letter = sum(length.tokens for length in sample) / whole
    learnt = sum(length.supervised for length in sample) / supervised
    tokens = _whole(found * a_letter for found, _ in letters)
    lengths = [ExampleLength(*pair) for pair in zip(tokens, _whole(own * learnt for _, own in letters), strict=True)]
    for rank, length in zip(ranks, sample, strict=True):
        lengths[rank] = length
    return lengths


def _whole(sizes: Iterable[float]) -> list[int]:
    """Sizes as whole numbers with the same sum: what one loses by rounding the next one gets."""
    edges = [round(edge) for edge in accumulate(sizes)]
    return [after - before for before, after in zip([0, *edges], edges, strict=False)]


def _characters(texts: Sequence[str]) -> int:
    """Of texts; each counts one more, for its end."""
    return sum(len(text) + 1 for text in texts)


def _texts(row: Row) -> list[str]:
    return [row.text or ""] if row.messages is None else [_content(turn) for turn in row.messages]


def _supervised(row: Row) -> list[str]:
    """The texts that the loss counts."""
    if row.messages is None:
        return [row.text or ""]
    turns = list(enumerate(row.messages))[row.prompt_turns :]
    learnt = [turn for rank, turn in turns if turn["role"] == "assistant" and rank not in row.skipped]
    return [_content(turn) for turn in learnt if says_something(turn)]


def _content(turn: Mapping[str, Any]) -> str:
    """What a turn says; a part that is no text is taken as it is written down."""
    said = (value if isinstance(value, str) else str(value) for key, value in turn.items() if key != "role" and value)
    return " ".join(said)


def _open_tokenizer(folder: Path | None) -> Tokenizer | None:
    """The tokenizer of a model's folder; None when it has none: then the counts are estimates."""
    if folder is None or not (folder / "tokenizer.json").is_file():
        return None
    return open_tokenizer(folder / "tokenizer.json")


def _exact(row: Row, tokenizer: Tokenizer, template: FolderTemplate | None) -> ExampleLength:
    """Tokens of one row: as the template writes it, where it does; of the loss, contents and an end for each turn."""

    def size(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    if row.messages is None:
        tokens = size(row.text or "")
        return ExampleLength(tokens + 1, tokens)
    supervised = sum(size(text) + 1 for text in _supervised(row))
    try:
        if template is not None:
            tokens = size(_written(row, template))
            return ExampleLength(tokens, min(supervised, tokens))
    except DataError:  # as in `try_template`, which has said so
        pass
    return ExampleLength(sum(map(size, _texts(row))) + _TEMPLATE_TOKENS * len(row.messages), supervised)


def _estimated(rows: Sequence[Row], vocabulary: int | None) -> RowTokens:
    ranks = _chosen(rows, _READ)
    sample = [rows[rank] for rank in ranks]
    parts = [(count_runs(_texts(row)), count_runs(_supervised(row))) for row in sample]
    pooled = [sum((part[side] for part in parts), Counter[str]()) for side in (0, 1)]
    sizes: list[tuple[float, float]] = []
    total: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for row, found in zip(sample, parts, strict=True):
        tokens = []
        for side in (0, 1):
            evidence = next((told for told in (found[side], pooled[side]) if _letters(told) >= _EVIDENCE), pooled[0])
            counts = units(found[side], evidence)
            held = estimate(counts, vocabulary)
            tokens.append(held.tokens)
            if side:
                seen.update(counts)
                total.update({"tokens": held.tokens, "low": held.low, "high": held.high})
        headers = _TEMPLATE_TOKENS * len(row.messages or ())
        ends = len(_supervised(row)) if row.messages is not None else 0
        sizes.append((tokens[0] + headers, tokens[1] + ends))
    lengths = [ExampleLength(*pair) for pair in zip(*(_whole(part) for part in zip(*sizes, strict=True)), strict=True)]
    off = Estimate(total["tokens"], total["low"], total["high"]).off
    known = factors_of(vocabulary)
    whose = f"in the vocabulary of {known.vocabulary}" if known.known else "in vocabularies that are known"
    said = f"by script, {describe(seen, vocabulary)}, {whose}: no tokenizer at hand, so {_within(off)}"
    return RowTokens(_spread(rows, lengths, ranks) if rows else [], "estimated", said)


def _within(off: float) -> str:
    return f"± {math.ceil(100 * off)} %" if off <= _PERCENT else f"within a factor of {1 + off:.1f}"


def _letters(found: Mapping[str, int]) -> int:
    """Those of the scripts within which languages differ."""
    return sum(found.get(script, 0) for script in ("latin", "cyrillic", "arabic"))
