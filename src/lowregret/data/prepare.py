"""A DataSpec and a tokenizer → training and held-out examples that share none, and a report of every decision."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lowregret.data.chat.template import chat_format, choose_template
from lowregret.data.encoded import read_encoded
from lowregret.data.example import Example
from lowregret.data.readers.base import OpenSource
from lowregret.data.readers.registry import open_source
from lowregret.data.report import Counts, DataReport, SplitReport
from lowregret.data.table import Examples, select
from lowregret.errors import DataError
from lowregret.spec.data import DataSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PreparedData:
    """Examples in file order; no training example has the tokens of a held-out one.

    They are made as they are asked for: how many there are does not matter to memory.
    """

    train: Sequence[Example]
    test: Sequence[Example]
    report: DataReport
    held_out: int = 0
    """Held-out examples that there are, those beyond `max_eval` included."""
    picked: tuple[int, ...] = ()
    """Positions in `test`, in the order in which a lower `max_eval` would take them; () is the order of `test`."""

    def first(self, count: int) -> tuple[int, ...]:
        """Positions in `test` of the examples that `max_eval = count` would leave."""
        return tuple(sorted(self.picked[:count])) if self.picked else tuple(range(min(count, len(self.test))))

    def judged_by(self, count: int) -> PreparedData:
        """The same with the first `count` held-out examples only."""
        kept = self.first(count)
        places = {position: index for index, position in enumerate(kept)}
        return replace(
            self,
            test=select(self.test, kept),
            picked=tuple(places[position] for position in self.picked[:count]),
        )


def prepare(spec: DataSpec, tokenizer: PreTrainedTokenizerBase) -> PreparedData:
    """Read, encode and split what `spec` names.

    Held out is `spec.eval`; else the test (or validation) split that a builtin or hub source comes with; else a split
    of the training data made by `spec.split_seed`. Training examples equal, token for token, to a held-out one are
    removed; then the first `max_train` and `max_eval` are kept. Raises DataError when a source is wrong or nothing is
    left.
    """
    choose_template(tokenizer, spec.chat_template)
    source = open_source(spec.train)
    train, train_report = _read_split("train", source, "train", spec, tokenizer)
    if spec.eval is None and source.held_out is None:
        return _split(spec, train, train_report)
    judge = source if spec.eval is None else open_source(spec.eval)
    test, test_report = _read_split("held out", judge, judge.held_out or "train", spec, tokenizer)
    kept = train[~train.repeats(test)]
    if not kept:
        same = spec.eval == spec.train
        raise DataError(
            f"every training example is also a held-out example{' (both name the same data)' if same else ''}. "
            "Leave --eval-data out to have a split made, or name other data.",
            source=spec.eval or spec.train,
        )
    first = "the first {:,} of {:,}, in file order"
    chosen_train, train_limit = kept[: spec.max_train], _limit(first, spec.max_train, len(kept))
    chosen_test, test_limit = test[: spec.max_eval], _limit(first, spec.max_eval, len(test))
    report = DataReport(
        splits=(
            replace(train_report, used=Counts.of(chosen_train), limit=train_limit),
            replace(test_report, used=Counts.of(chosen_test), limit=test_limit),
        ),
        removed_across_split=len(train) - len(kept),
    )
    return PreparedData(chosen_train, chosen_test, report, len(test))


def prepare_held_out(spec: DataSpec, tokenizer: PreTrainedTokenizerBase) -> tuple[Sequence[Example], DataReport]:
    """The held-out examples of `spec.train`: those `prepare` gives as `test` when this source is its `eval`.

    Of a builtin or hub source this is the test (or validation) split, if it has one; of a file, all rows.
    """
    choose_template(tokenizer, spec.chat_template)
    source = open_source(spec.train)
    examples, found = _read_split("held out", source, source.held_out or "train", spec, tokenizer)
    chosen = examples[: spec.max_eval]
    limit = _limit("the first {:,} of {:,}, in file order", spec.max_eval, len(examples))
    return chosen, DataReport(splits=(replace(found, used=Counts.of(chosen), limit=limit),))


def _read_split(
    role: str, source: OpenSource, split: str, spec: DataSpec, tokenizer: PreTrainedTokenizerBase
) -> tuple[Examples, SplitReport]:
    found = read_encoded(source, split, spec, tokenizer)
    whole, limit = found.table.lengths, spec.max_length
    if not len(whole):
        reason, rows, line = found.remarks[0]
        raise DataError(
            f"nothing in any row is supervised. {rows:,} rows, the first {found.source.places.short(line)}: {reason}",
            source=source.name,
        )
    overlong = whole > limit
    kept = found.table.supervised(limit) > 0
    if spec.overlong == "drop":
        kept &= ~overlong
    longest = int(whole.max())
    if not kept.any():
        fate = "were dropped" if spec.overlong == "drop" else "keep no supervised token once cut"
        raise DataError(
            f"no example is left: all {len(whole)} are over {limit} tokens and {fate} "
            f"(the longest has {longest}). Raise --max-length to {longest}, or shorten the examples.",
            source=source.name,
        )
    examples = Examples(found.table, np.flatnonzero(kept), limit)
    lost = len(whole) - len(examples)
    counts = Counts.of(examples)
    form = chat_format(tokenizer)
    unused = tuple(name for name in found.source.unused_columns if not form.reads(name))
    return examples, SplitReport(
        role=role,
        source=replace(found.source, unused_columns=unused),
        template=form.description(texts=found.texts),
        max_length=limit,
        longest=longest,
        overlong_cut=int(overlong.sum()) - lost,
        overlong_dropped=lost if spec.overlong == "drop" else 0,
        overlong_emptied=lost if spec.overlong == "cut" else 0,
        open_turns=found.open_turns,
        read=counts,
        used=counts,
        remarks=found.remarks,
        unlearnt=found.unlearnt,
        kept=found.kept,
    )


def _split(spec: DataSpec, examples: Examples, found: SplitReport) -> PreparedData:
    """Hold out a share of the examples: the seed's shuffle picks, the order stays that of the file."""
    if len(examples) < 2:
        raise DataError(
            "one example cannot be split into training and held-out data. Give more rows, or --eval-data.",
            source=spec.train,
        )
    shuffled = list(range(len(examples)))
    random.Random(spec.split_seed).shuffle(shuffled)
    order = np.array(shuffled)
    held_out = min(max(round(len(examples) * spec.eval_fraction), 1), len(examples) - 1)
    test_order, train_order = order[:held_out], order[held_out:]
    repeats = examples.repeats(examples[np.sort(test_order)])
    kept = train_order[~repeats[train_order]]
    if not len(kept):
        raise DataError(
            "the split leaves nothing to train on: every training example is also a held-out one. "
            "Give data with more distinct rows, or --eval-data.",
            source=spec.train,
        )
    chosen = test_order[: spec.max_eval]
    in_order = np.sort(chosen)
    test, train = examples[in_order], examples[np.sort(kept[: spec.max_train])]
    picked = "{:,} of {:,}, picked by the split's shuffle"
    report = DataReport(
        splits=(replace(found, used=Counts.of(train), limit=_limit(picked, spec.max_train, len(kept))),),
        how_split=f"{held_out:,} of {len(examples):,} examples held out by seed {spec.split_seed}, "
        "for want of --eval-data",
        test=Counts.of(test),
        test_limit=_limit(picked, spec.max_eval, held_out),
        removed_across_split=len(train_order) - len(kept),
    )
    return PreparedData(train, test, report, held_out, tuple(np.searchsorted(in_order, chosen).tolist()))


def _limit(words: str, limit: int | None, available: int) -> str | None:
    """What a limit did, or None when it did nothing."""
    return words.format(limit, available) if limit is not None and limit < available else None
