"""A look at a data source without torch or transformers: how many examples and tokens, and what is wrong with it.

The rows are read as the trainer reads them. Their tokens are counted by the model's own tokenizer file where there is
one, on a sample of the rows; else they are estimated from words, digits and marks. A source that exists but has faults
is counted as far as it can be read, and the faults are listed: stopping at the first is the trainer's business.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowregret.data.builtin.registry import known_fact_bits
from lowregret.data.facts import Counted, DataFacts, ExampleLength, choose_max_length, list_problems
from lowregret.data.readers.base import OpenSource, Places
from lowregret.data.readers.registry import open_source
from lowregret.data.sources import Row, read_open
from lowregret.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SAMPLE = 256
_TEMPLATE_SAMPLE = 16
_PIECES = re.compile(r"[A-Za-z]+|[0-9]|[^\sA-Za-z0-9]")
_TOKENS_PER_PIECE = 1.06
"""An English word, a digit or a mark: 1.02 to 1.10 by SmolLM2's tokenizer on GSM8K, English prose and Python; other
languages may differ by far."""
_TEMPLATE_TOKENS = 5
"""A turn's header and end in the usual chat templates."""


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
    context: int | None = None,
    max_length: int | None = None,
    eval_fraction: float = 0.1,
    prompt_field: str | None = None,
    completion_field: str | None = None,
) -> DataFacts:
    """The facts of a training source; what would be held out of it is counted apart, as `prepare` does it.

    Args:
        source, eval_source: files, builtins or hub datasets.
        tokenizer: a folder with tokenizer.json, or None.
        context: positions of the base; no example can be longer.
        max_length: tokens; when not given, what the longest example needs (`choose_max_length`).

    Raises:
        DataError: a source does not exist or is of no known kind.
    """
    opened = open_source(source)
    judge = open_source(eval_source) if eval_source is not None else opened if opened.held_out else None
    train = _read(opened, "train", prompt_field, completion_field)
    problems = train.problems
    rows = train.rows
    if judge is None:
        held_out = min(max(round(len(rows) * eval_fraction), 1), max(len(rows) - 1, 0))
        held_out_from = f"{eval_fraction:.0%} of the rows"
    else:
        judged = _read(judge, judge.held_out or "train", prompt_field, completion_field)
        problems = problems + judged.problems
        held_out, held_out_from = len(judged.rows), judge.name + (f", split {judge.held_out}" if judge.held_out else "")
    lengths, counted, how = _lengths(rows, tokenizer)
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
        counted=counted,
        how=how,
        problems=list_problems(problems),
        notes=(*opened.notes, *(judge.notes if judge is not None and judge is not opened else ())),
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


def _repeats(places: Places, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """One entry for all rows that say what an earlier one said."""
    first: dict[Any, int] = {}
    repeated = []
    for row in rows:
        content = row.text if row.messages is None else tuple(turn["role"] + turn["content"] for turn in row.messages)
        if content in first:
            repeated.append((row.line, first[content]))
        else:
            first[content] = row.line
    if not repeated:
        return []
    (line, earlier), count = repeated[0], len(repeated)
    said = "row repeats an earlier one" if count == 1 else "rows repeat earlier ones"
    return [(places.full(line), f"{count:,} {said}; this one {places.short(earlier)}.")]


def _lengths(rows: Sequence[Row], folder: Path | None) -> tuple[list[ExampleLength], Counted, str]:
    """Tokens of every row. A sample through the tokenizer sets the tokens a piece of the others."""
    pieces = [_pieces(row) for row in rows]
    tokenizer = _open_tokenizer(folder)
    if tokenizer is None or folder is None:
        counted = [_estimated(row, found) for row, found in zip(rows, pieces, strict=True)]
        return counted, "estimated", "words, digits and marks: no tokenizer at hand, so ± 25 %"
    step = max(1, math.ceil(len(rows) / _SAMPLE))
    sample = list(rows[::step])
    exact, added = _count(sample, tokenizer, folder)
    if step == 1:
        return exact, "exact", "the model's tokenizer"
    all_pieces, supervised_pieces = (max(sum(part), 1) for part in zip(*pieces[::step], strict=True))
    whole = sum(length.tokens - added for length in exact) / all_pieces
    supervised = sum(length.supervised for length in exact) / supervised_pieces
    lengths = [ExampleLength(round(found * whole) + added, round(own * supervised)) for found, own in pieces]
    lengths[::step] = exact
    return lengths, "sampled", f"the model's tokenizer on {len(sample):,} of {len(rows):,} rows"


def _supervised(row: Row) -> list[str]:
    """The texts that the loss counts."""
    if row.messages is None:
        return [row.text or ""]
    turns = row.messages[row.prompt_turns :]
    return [turn["content"] for turn in turns if turn["role"] == "assistant"]


def _texts(row: Row) -> list[str]:
    return [row.text or ""] if row.messages is None else [turn["content"] for turn in row.messages]


def _pieces(row: Row) -> tuple[int, int]:
    """Words, digits and marks: of the whole row, and of what the loss counts."""
    return tuple(sum(len(_PIECES.findall(text)) for text in texts) for texts in (_texts(row), _supervised(row)))  # type: ignore[return-value]


def _estimated(row: Row, pieces: tuple[int, int]) -> ExampleLength:
    whole, supervised = (round(_TOKENS_PER_PIECE * found) for found in pieces)
    return ExampleLength(whole + _TEMPLATE_TOKENS * len(row.messages or ()), supervised + len(_supervised(row)))


def _open_tokenizer(folder: Path | None) -> Tokenizer | None:
    """The tokenizer of a model's folder; None when it has none that can be read: then the counts are estimates."""
    if folder is None or not (folder / "tokenizer.json").is_file():
        return None
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # what the library raises for a broken file is a bare Exception
        return None


def _count(rows: Sequence[Row], tokenizer: Tokenizer, folder: Path) -> tuple[list[ExampleLength], int]:
    """Tokens of rows: those of their contents, and what the chat template adds to each, by the mean of a few rows."""
    texts = [_texts(row) for row in rows]
    found = iter(tokenizer.encode_batch([text for row in texts for text in row], add_special_tokens=False))
    contents = [[len(next(found).ids) for _ in row] for row in texts]
    added = round(_template_tokens(rows[:_TEMPLATE_SAMPLE], contents, tokenizer, folder))
    lengths = []
    for row, counts in zip(rows, contents, strict=True):
        if row.messages is None:
            lengths.append(ExampleLength(counts[0] + 1, counts[0]))
            continue
        turns = list(zip(row.messages, counts, strict=True))[row.prompt_turns :]
        supervised = sum(count + 1 for turn, count in turns if turn["role"] == "assistant")
        lengths.append(ExampleLength(sum(counts) + added, supervised))
    return lengths, added


def _template_tokens(
    rows: Sequence[Row], contents: Sequence[Sequence[int]], tokenizer: Tokenizer, folder: Path
) -> float:
    """Tokens that the chat template adds to an example: headers, ends, a system prompt of its own."""
    chats = [(row.messages, sum(counts)) for row, counts in zip(rows, contents, strict=False) if row.messages]
    if not chats:
        return 0.0
    usual = sum(_TEMPLATE_TOKENS * len(messages) for messages, _ in chats) / len(chats)
    render = _renderer(folder)
    if render is None:
        return usual
    added = []
    for messages, count in chats:
        try:
            text = render(list(messages))
        except Exception:  # a template is a program by somebody else: it refuses rows by raising whatever it likes
            continue
        added.append(len(tokenizer.encode(text, add_special_tokens=False).ids) - count)
    return sum(added) / len(added) if added else usual


def _renderer(folder: Path) -> Any:
    """messages → text by the folder's chat template, or None when it has none."""
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    try:
        template: Any = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except OSError:
        template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = next((entry.get("template") for entry in template if entry.get("name") == "default"), None)
    if not isinstance(template, str):
        return None
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["strftime_now"] = lambda form: "26 Jul 2024"
    compiled = environment.from_string(re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template))
    names = {name: _token(config.get(name)) for name in ("bos_token", "eos_token")}
    return lambda messages: compiled.render(messages=messages, add_generation_prompt=False, **names)


def _token(value: Any) -> str:
    """A special token in tokenizer_config.json: text, or a table with `content`."""
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")
