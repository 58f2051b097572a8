"""A look at a data source without torch or transformers: how many examples and tokens, and what is wrong with it.

The rows are read as the trainer reads them. Their tokens are counted by the model's own tokenizer file where there is
one, on a sample of the rows; else they are estimated by what the rows are written in. A source that exists but has
faults is counted as far as it can be read, and the faults are listed: stopping at the first is the trainer's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowregret.data.builtin.registry import known_fact_bits
from lowregret.data.chat.compiled import FolderTemplate
from lowregret.data.facts import DataFacts, choose_max_length, list_problems
from lowregret.data.readers.base import OpenSource, Places
from lowregret.data.readers.registry import open_source
from lowregret.data.row_tokens import count_rows, open_template, try_template
from lowregret.data.sources import Row, read_open
from lowregret.data.turns import spoken
from lowregret.errors import DataError, ModelError


@dataclass(frozen=True)
class _Read:
    """Rows of one split, and the places that had none to give."""

    rows: list[Row]
    layout: str
    problems: list[tuple[str, str]]


def scan(
    source: str,
    *,
    eval_source: str | None = None,
    tokenizer: Path | None = None,
    vocabulary: int | None = None,
    context: int | None = None,
    max_length: int | None = None,
    eval_fraction: float = 0.1,
    prompt_field: str | None = None,
    completion_field: str | None = None,
) -> DataFacts:
    """The facts of a training source; what would be held out of it is counted apart, as `prepare` does it.

    Args:
        source, eval_source: files, builtins or hub datasets.
        tokenizer: a folder with tokenizer.json and a chat template, or None.
        vocabulary: rows of the base's embedding, by which an estimate knows what vocabulary it is.
        context: positions of the base; no example can be longer.
        max_length: tokens; when not given, what the longest example needs (`choose_max_length`).

    Raises:
        DataError: a source does not exist or is of no known kind.
    """
    opened = open_source(source)
    judge = open_source(eval_source) if eval_source is not None else opened if opened.held_out else None
    asked = template = open_template(tokenizer)
    train, template = _render(_read(opened, "train", prompt_field, completion_field), template, tokenizer, opened)
    problems = train.problems
    rows = train.rows
    if judge is None:
        held_out = min(max(round(len(rows) * eval_fraction), 1), max(len(rows) - 1, 0))
        held_out_from = f"{eval_fraction:.0%} of the rows"
    else:
        judged, _ = _render(
            _read(judge, judge.held_out or "train", prompt_field, completion_field), template, tokenizer, judge
        )
        problems = problems + judged.problems
        held_out, held_out_from = len(judged.rows), judge.name + (f", split {judge.held_out}" if judge.held_out else "")
    found = count_rows(rows, tokenizer, template, vocabulary)
    lengths = found.lengths
    limit = max_length or choose_max_length(lengths, context)
    share = 1.0 if judge is not None or not rows else (len(rows) - held_out) / len(rows)
    kept = [length.cut(limit) for length in lengths]
    return DataFacts(
        source=source,
        layout=train.layout,
        examples=len(rows) if judge is not None else len(rows) - held_out,
        tokens=round(share * sum(length.tokens for length in kept)),
        supervised_tokens=round(share * sum(length.supervised for length in kept)),
        longest=max((length.tokens for length in kept), default=0),
        max_length=limit,
        overlong=sum(length.tokens > limit for length in lengths),
        held_out=held_out,
        held_out_from=held_out_from,
        counted=found.counted,
        how=found.how,
        problems=list_problems(problems),
        notes=(*opened.notes, *(judge.notes if judge is not None and judge is not opened else ())),
        blocked=asked is not None and template is None,
        fact_bits=known_fact_bits(source),
    )


def _read(opened: OpenSource, split: str, prompt_field: str | None, completion_field: str | None) -> _Read:
    """The good rows; a source without any is a problem, not the end."""
    try:
        rows, report = read_open(
            opened, prompt_field=prompt_field, completion_field=completion_field, skip_bad_rows=True, split=split
        )
    except DataError as error:
        place = opened.name if error.line is None else f"{opened.name}:{error.line}"
        return _Read([], "", [(place, str(error).removeprefix(f"{place}: "))])
    places = report.places
    bad = [(places.full(number), reason) for number, reason in report.bad_rows]
    return _Read(rows, report.columns, bad + _repeats(places, rows))


def _render(
    read: _Read, template: FolderTemplate | None, folder: Path | None, opened: OpenSource
) -> tuple[_Read, FolderTemplate | None]:
    """Without the rows that the chat template refuses; and the template, where it is of use.

    One that is broken, or refuses every row, is a fault of the template: the rows are then counted without it.
    """
    if template is None or not read.rows:
        return read, template
    try:
        refused = try_template(read.rows, template)
    except ModelError as error:
        return _Read(read.rows, read.layout, [(str(folder), str(error)), *read.problems]), None
    if not refused.reasons:
        return read, template
    first = min(refused.reasons)
    reason = refused.reasons[first].rstrip(".")
    if len(refused.reasons) == refused.tried:
        every = f"the chat template refuses every row: {reason}. So no row can be trained on as it is."
        return _Read(read.rows, read.layout, [(str(folder), every), *read.problems]), None
    count = len(refused.reasons)
    of = "" if refused.tried == len(read.rows) else f" of the {refused.tried:,} tried"
    said = f"{count:,} row{'s' * (count > 1)}{of} that the chat template refuses; this one: {reason}."
    kept = [row for rank, row in enumerate(read.rows) if rank not in refused.reasons]
    fault = (opened.places.full(read.rows[first].line), said)
    return _Read(kept, read.layout, [*read.problems, fault]), template


def _repeats(places: Places, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """One entry for all rows that say what an earlier one said."""
    first: dict[Any, int] = {}
    repeated = []
    for row in rows:
        content = row.text if row.messages is None else tuple(turn["role"] + spoken(turn) for turn in row.messages)
        if content in first:
            repeated.append((row.line, first[content]))
        else:
            first[content] = row.line
    if not repeated:
        return []
    (line, earlier), count = repeated[0], len(repeated)
    said = "row repeats an earlier one" if count == 1 else "rows repeat earlier ones"
    return [(places.full(line), f"{count:,} {said}; this one {places.short(earlier)}.")]
