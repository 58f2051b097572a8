"""A split of a source → a table of whole encoded rows, made once: what is large is kept for the next run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lowregret.activity import Activity, doing
from lowregret.data.cache import Kept, Writer, find
from lowregret.data.chat.template import chat_format
from lowregret.data.processes import encode_in_order, helpers
from lowregret.data.readers.base import OpenSource
from lowregret.data.sources import BadRow, Row, RowStream, SourceReport, bad_row
from lowregret.data.table import ExampleTable
from lowregret.errors import DataError
from lowregret.spec.data import DataSpec
from lowregret.strict_json import to_json
from lowregret.version import __version__

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FEW_ROWS, _FEW_CHARACTERS = 2000, 1_000_000
"""A source with fewer of both is encoded at every start: that takes no longer than to look for it in the cache."""

_OF_NO_EFFECT = frozenset(
    {
        "train",
        "eval",
        "max_length",
        "overlong",
        "max_train",
        "max_eval",
        "eval_fraction",
        "split_seed",
        "skip_bad_rows",
    }
)
"""Fields of a DataSpec that change no whole row: the source is known by its content. A new field changes them, unless
it is named here."""


@dataclass(frozen=True)
class EncodedSplit:
    """All rows of a split that hold something to learn, before any is cut, and what was found."""

    table: ExampleTable
    source: SourceReport
    texts: bool
    """Whether rows are text, not chats."""
    open_turns: int
    unlearnt: int
    """Good rows of which nothing is supervised, for a reason among the remarks."""
    remarks: tuple[tuple[str, int, int], ...]
    """(what, rows of which it is true, the number of the first of them)."""
    kept: str
    """Where the rows are kept between runs, or why they are not; "" for few."""


def read_encoded(source: OpenSource, split: str, spec: DataSpec, tokenizer: PreTrainedTokenizerBase) -> EncodedSplit:
    """Read and encode a split, or find it as it was encoded before.

    An entry of the cache is known by the content of the source, of the tokenizer and its template, and of the code
    that encodes. Raises DataError for a source without a good row and, unless `spec.skip_bad_rows`, for a bad one.
    """
    with doing(f"reading and tokenizing {source.name}") as reading:
        return _read(source, split, spec, tokenizer, reading)


def _read(
    source: OpenSource, split: str, spec: DataSpec, tokenizer: PreTrainedTokenizerBase, reading: Activity
) -> EncodedSplit:
    stream = RowStream(source, prompt_field=spec.prompt_field, completion_field=spec.completion_field, split=split)
    items = iter(stream)
    first, few = _first(items)
    work = _Encoding(stream, source, chain(first, items), spec.skip_bad_rows, tokenizer, reading)
    if few:
        batches = list(work)
        return _describe(Kept(batches, work.about(), None), source, "")
    fingerprint = source.fingerprint(split)
    key = _key(fingerprint, split, spec, tokenizer)
    found = find(key)
    if found is not None:
        _refuse_bad_rows(found.about, source, spec.skip_bad_rows)
        return _describe(found, source, f"encoded before: read from {found.folder}")
    with Writer(key) as writer:
        writer.add(work)
        if source.fingerprint(split) == fingerprint:
            kept = writer.keep(work.about())
        else:
            kept = writer.leave(work.about(), "the source changed while it was read")
    if kept.folder is not None:
        return _describe(kept, source, f"encoded rows kept for the next start: {kept.folder}")
    return _describe(
        kept,
        source,
        f"warning: the encoded rows are not kept for the next start: {kept.problem}. "
        "The variable LOWREGRET_CACHE names another folder for them.",
    )


def _first(items: Iterator[Row | BadRow]) -> tuple[list[Row | BadRow], bool]:
    """Rows up to what is few, and whether that is all."""
    held: list[Row | BadRow] = []
    characters = 0
    for item in items:
        held.append(item)
        characters += item.characters if isinstance(item, Row) else 0
        if len(held) >= _FEW_ROWS or characters >= _FEW_CHARACTERS:
            return held, False
    return held, True


class _Encoding:
    """Encodes rows one after the other into batches of the table, and counts what became of them."""

    def __init__(
        self,
        stream: RowStream,
        source: OpenSource,
        items: Iterable[Row | BadRow],
        skip: bool,
        tokenizer: PreTrainedTokenizerBase,
        reading: Activity,
    ) -> None:
        self._reading = reading
        self._stream, self._source, self._items = stream, source, items
        self._skip, self._tokenizer = skip, tokenizer
        self._bad: list[tuple[int, str]] = []
        self._refused: list[tuple[int, str]] = []
        self._rows = self._unlearnt = self._open_turns = 0
        self._texts: bool | None = None
        self._remarks: dict[str, tuple[int, int]] = {}

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for chunk in encode_in_order(self._good(), self._tokenizer, helpers()):
            for line, reason in chunk.refused:  # a row that the chat template refuses is a bad row like any other
                self._set_aside(self._refused, line, reason)
            self._rows += chunk.rows
            self._reading.advance(chunk.rows)
            self._unlearnt += chunk.rows - chunk.batch.num_rows
            self._open_turns += chunk.open_turns
            for remark, (count, first) in chunk.remarks.items():
                before, line = self._remarks.get(remark, (0, first))
                self._remarks[remark] = before + count, line
            yield chunk.batch

    def _good(self) -> Iterator[Row]:
        for item in self._items:
            if isinstance(item, BadRow):
                self._set_aside(self._bad, item.line, item.reason)
                continue
            if self._texts is None:
                self._texts = item.messages is None
            yield item

    def _set_aside(self, bad: list[tuple[int, str]], line: int, reason: str) -> None:
        if not self._skip:
            raise bad_row(self._source.places, line, reason)
        bad.append((line, reason))

    def about(self) -> dict[str, Any]:
        """What is told of the rows, once all were encoded. Raises DataError when none could be."""
        report = self._stream.report(self._rows, self._bad)
        if not self._rows:
            line, reason = self._refused[0]
            first = report.places.short(line)
            raise DataError(f"no row can be encoded; the first, {first}: {reason}", source=report.source)
        bad = tuple(sorted((*self._bad, *self._refused)))
        return {
            "source": asdict(replace(report, bad_rows=bad)),
            "texts": bool(self._texts),
            "open_turns": self._open_turns,
            "unlearnt": self._unlearnt,
            "remarks": [(remark, *counted) for remark, counted in self._remarks.items()],
        }


def _describe(kept: Kept, source: OpenSource, where: str) -> EncodedSplit:
    about = dict(kept.about)
    found = {name: _frozen(value) for name, value in about.pop("source").items()}
    found |= {"source": source.name, "notes": source.notes, "parts": source.parts}  # the entry knows the content only
    remarks = _frozen(about.pop("remarks"))
    return EncodedSplit(
        table=ExampleTable(kept.batches), source=SourceReport(**found), remarks=remarks, kept=where, **about
    )


def _frozen(value: Any) -> Any:
    """With tuples for JSON's lists."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _refuse_bad_rows(about: Mapping[str, Any], source: OpenSource, skip: bool) -> None:
    """DataError for the first bad row, as reading them would raise it."""
    bad = about["source"]["bad_rows"]
    if bad and not skip:
        line, reason = bad[0]
        raise bad_row(source.places, line, reason)


def _key(fingerprint: str, split: str, spec: DataSpec, tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of all that the whole rows depend on."""
    form = chat_format(tokenizer)  # first: it makes a tokenizer forget the truncation that a file may ask for
    facts = {
        "source": [fingerprint, split],
        "fields": spec.model_dump(mode="json", exclude=set(_OF_NO_EFFECT)),
        "tokenizer": [type(tokenizer).__name__, tokenizer.backend_tokenizer.to_str()],
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "format": asdict(form),
        "code": _code(),
        "libraries": [version(name) for name in ("tokenizers", "transformers", "jinja2")],
    }
    return hashlib.sha256(to_json(facts, sort_keys=True, default=sorted).encode()).hexdigest()[:32]


@cache
def _code() -> str:
    """A hash of this room's code, so that a change of it is never forgotten, and of the version."""
    digest = hashlib.sha256(__version__.encode())
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
