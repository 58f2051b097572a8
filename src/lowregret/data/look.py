"""A look at a source before training: one row as the base sees it, and all rows in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowregret.data.example import Example
from lowregret.data.overview import Bar, Near, Overview, Part, Shown
from lowregret.data.prepare import PreparedData, prepare, prepare_held_out
from lowregret.data.readers.base import Places
from lowregret.data.readers.registry import open_source
from lowregret.data.sources import Row, RowStream
from lowregret.data.table import Examples, supervised_counts, token_counts
from lowregret.data.turns import spoken
from lowregret.errors import DataError
from lowregret.spec.data import DataSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

READ_FOR_TEXT = 2_000
"""Rows whose turns and languages are counted."""
_LEAST_LETTERS = 20
"""Of a row, to tell its language by."""
COMPARED = 100_000
"""Training examples that are compared with the held-out ones, and of these as many."""
SHINGLE = 3
"""Tokens of a shingle, the unit of what two examples have in common."""
ALIKE = 0.7
"""Share of common shingles, of all that either has, from which two examples are near-duplicates."""
_COMMON = 0.05
"""Shingles in more than this share of the held-out examples are of the template or the task, and not counted."""


def overview(spec: DataSpec, tokenizer: PreTrainedTokenizerBase, row: str | None = None) -> Overview:
    """Look at the data of a spec as training would see them; bad rows are counted, not met one by one.

    `row` is the row to show, as errors name it, `7` or with its file; the first when not given. Raises DataError when
    nothing can be used, or there is no such row.
    """
    spec = spec.model_copy(update={"skip_bad_rows": True})
    data = _prepared(spec, tokenizer)
    train, test = data.train, data.test
    turns, languages = _texts(spec)
    places = data.report.splits[0].source.places, data.report.splits[-1].source.places
    return Overview(
        source=spec.train,
        train=_part(train),
        held_out=_part(test) if len(test) else None,
        turns=turns,
        languages=languages,
        near=tuple(near_duplicates(train, test, places)),
        lines=tuple(data.report.lines()),
        shown=_show(spec, (train, test), places, tokenizer, row),
    )


def _prepared(spec: DataSpec, tokenizer: PreTrainedTokenizerBase) -> PreparedData:
    try:
        return prepare(spec, tokenizer)
    except DataError:
        if spec.eval is not None or open_source(spec.train).held_out is not None:
            raise
        alone, report = prepare_held_out(spec, tokenizer)
        if len(alone) > 1:
            raise
        return PreparedData(alone, (), report)


def _part(examples: Sequence[Example]) -> Part:
    tokens = token_counts(examples)
    return Part(
        examples=len(examples),
        tokens=int(tokens.sum()),
        supervised_tokens=int(supervised_counts(examples).sum()),
        median=int(np.median(tokens)),
        longest=int(tokens.max()),
        repeats=len(examples) - len(set(_digests(examples))),
        histogram=_histogram(tokens),
    )


def _digests(examples: Sequence[Example]) -> list[Any]:
    if isinstance(examples, Examples):
        return [digest.tobytes() for digest in examples.digests()]
    return [example.token_ids for example in examples]


def _histogram(tokens: NDArray[np.int64]) -> tuple[Bar, ...]:
    """By powers of two."""
    places = np.ceil(np.log2(np.maximum(tokens, 2))).astype(int)
    first, last = int(places.min()), int(places.max())
    counts = np.bincount(places - first, minlength=last - first + 1)
    return tuple(Bar(2 ** (first + k - 1) + 1, 2 ** (first + k), int(count)) for k, count in enumerate(counts))


def _numbers(examples: Sequence[Example]) -> NDArray[np.int64]:
    """Each example's row in its source: int64 [examples]."""
    if isinstance(examples, Examples):
        return examples.table.lines()[examples.rows]
    return np.arange(1, len(examples) + 1)


def _show(
    spec: DataSpec,
    parts: Sequence[Sequence[Example]],
    places: Sequence[Places],
    tokenizer: PreTrainedTokenizerBase,
    row: str | None,
) -> Shown:
    for examples, named in zip(parts, places, strict=True):
        numbers = _numbers(examples)
        chosen = np.arange(len(numbers))[:1] if row is None else np.flatnonzero(numbers == named.find(row))
        if len(chosen):
            first = int(chosen[0])
            return Shown(named.short(int(numbers[first])), tuple(_stretches(examples[first], tokenizer)))
    raise DataError(
        f"--row {row}: no such row is used. Bad rows and those left out are listed above.", source=spec.train
    )


def _stretches(example: Example, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, bool]]:
    """The text of an example, cut where supervision begins and ends."""
    start = 0
    length = len(example.token_ids)
    for stop in range(1, length + 1):
        if stop == length or example.supervised[stop] != example.supervised[start]:
            yield str(tokenizer.decode(list(example.token_ids[start:stop]))), example.supervised[start]
            start = stop


def _texts(spec: DataSpec) -> tuple[float | None, tuple[tuple[str, float], ...]]:
    """(mean turns, languages) of the first rows."""
    from py3langid import classify

    source = open_source(spec.train)
    stream = RowStream(source, prompt_field=spec.prompt_field, completion_field=spec.completion_field, split="train")
    turns: list[int] = []
    languages: Counter[str] = Counter()
    for row in islice((item for item in stream if isinstance(item, Row)), READ_FOR_TEXT):
        said = [row.text or ""] if row.messages is None else [spoken(turn) for turn in row.messages]
        text = "\n".join(said)
        long_enough = sum(map(str.isalpha, text[:1000])) >= _LEAST_LETTERS
        languages[classify(text)[0] if long_enough else "-"] += 1
        if row.messages is not None:
            turns.append(len(row.messages))
    shares = tuple((name, count / languages.total()) for name, count in languages.most_common())
    return (sum(turns) / len(turns) if turns else None), shares


def near_duplicates(train: Sequence[Example], test: Sequence[Example], places: tuple[Places, Places]) -> list[Near]:
    """Training examples of which most of the shingles are those of a held-out one, the most alike first; `places` name
    their rows and those of the held-out ones.

    Shingles are runs of three tokens; two examples are as alike as their common shingles are a share of all that
    either has (Jaccard's index, Broder 1997, "On the resemblance and containment of documents").
    """
    judged = [_shingles(example) for example in islice(test, COMPARED)]
    if not judged:
        return []
    owners = np.repeat(np.arange(len(judged)), [len(found) for found in judged])
    hashes = np.concatenate(judged)
    kinds, counts = np.unique(hashes, return_counts=True)
    common = kinds[counts > max(_COMMON * len(judged), 10)]
    kept = ~np.isin(hashes, common)
    owners, hashes = owners[kept], hashes[kept]
    sizes = np.bincount(owners, minlength=len(judged))
    order = np.argsort(hashes, kind="stable")
    owners, hashes = owners[order], hashes[order]
    near: list[tuple[float, int, int]] = []
    train_rows, test_rows = _numbers(train), _numbers(test)
    for place, example in enumerate(islice(train, COMPARED)):
        own = _shingles(example)
        own = own[~np.isin(own, common)] if len(common) else own
        low, high = np.searchsorted(hashes, own), np.searchsorted(hashes, own, side="right")
        if not (high > low).any():
            continue
        hits = np.concatenate([owners[a:b] for a, b in zip(low, high, strict=True) if b > a])
        shared = np.bincount(hits, minlength=len(judged))
        alike = shared / np.maximum(len(own) + sizes - shared, 1)
        best = int(alike.argmax())
        if alike[best] >= ALIKE:
            near.append((-float(alike[best]), int(train_rows[place]), int(test_rows[best])))
    of_train, of_test = places
    return [Near(of_train.short(row), of_test.short(held_out), -unlike) for unlike, row, held_out in sorted(near)]


def _shingles(example: Example) -> NDArray[np.uint64]:
    """The different runs of three tokens, each as one number: uint64 [shingles]."""
    ids = np.array(example.token_ids, dtype=np.uint64)
    if len(ids) < SHINGLE:
        return ids[:0]
    base = np.uint64(1 << 21)  # more than any vocabulary, so that equal numbers are equal runs
    return np.unique((ids[:-2] * base + ids[1:-1]) * base + ids[2:])
