"""What preparing data detected, filled in, counted and left out, as fields and as lines to print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lowregret.data.example import Example
from lowregret.data.sources import SourceReport
from lowregret.data.table import supervised_counts, token_counts

_REASONS_SHOWN = 10


@dataclass(frozen=True)
class Counts:
    """The size of a set of examples."""

    examples: int
    supervised_tokens: int
    tokens: int
    """Prompts included."""

    @staticmethod
    def of(examples: Sequence[Example]) -> Counts:
        """Count them."""
        return Counts(len(examples), int(supervised_counts(examples).sum()), int(token_counts(examples).sum()))

    def __str__(self) -> str:
        return f"{self.examples:,} examples, {self.supervised_tokens:,} supervised of {self.tokens:,} tokens"


@dataclass(frozen=True)
class SplitReport:
    """One split of a source, read and encoded."""

    role: str
    """train or held out."""
    source: SourceReport
    template: str
    """How rows became text, and what of it is supervised."""
    max_length: int
    longest: int
    """Tokens of the longest example, before any cut."""
    overlong_cut: int
    overlong_dropped: int
    overlong_emptied: int
    """Dropped because the cut left no supervised token."""
    open_turns: int
    """Supervised turns that no end-of-turn token closes."""
    read: Counts
    """Examples of the whole source."""
    used: Counts
    """Examples left after the split, the removal of duplicates and the limit."""
    limit: str | None = None
    remarks: tuple[tuple[str, int, int], ...] = ()
    """(what, rows of which it is true, the number of the first of them)."""
    unlearnt: int = 0
    """Rows left out because none of their turns is supervised, for the reasons among the remarks."""
    kept: str = field(default="", compare=False)
    """Where the encoded rows are kept between runs, or why they are not; "" for few rows."""

    def lines(self) -> Iterator[str]:
        """The split in words."""
        found = self.source
        split = f", split {found.split}" if found.split else ""
        yield f"{self.role}: {found.source} ({found.format}{split}), columns {found.columns}"
        yield from (f"  {note}" for note in found.notes)
        if found.unused_columns:
            yield f"  columns not used: {', '.join(found.unused_columns)}"
        yield f"  {self.template}"
        yield from self._bad_rows()
        yield f"  read: {self.read}; the longest has {self.longest:,} tokens"
        if self.kept:
            yield f"  {self.kept}"
        yield from self._overlong()
        for reason, rows, first in self.remarks:
            where = f"row{'s' if rows > 1 else ''}, the first {found.places.short(first)}"
            yield f"  {rows:,} {where}: {reason}"
        if self.unlearnt:
            yield f"  left out, for nothing in them is supervised: {self.unlearnt:,} rows"
        if self.open_turns:
            yield f"  no end-of-turn token closes {self.open_turns:,} assistant turns: nothing teaches it to stop"

    def _bad_rows(self) -> Iterator[str]:
        bad = self.source.bad_rows
        if not bad:
            return
        yield f"  bad rows skipped: {len(bad):,}"
        for line, reason in bad[:_REASONS_SHOWN]:
            yield f"    {self.source.places.short(line)}: {reason}"
        if len(bad) > _REASONS_SHOWN:
            name = self.source.places.full if self.source.parts else str
            rest = ", ".join(name(line) for line, _ in bad[_REASONS_SHOWN:])
            yield f"    and {rest}" if self.source.parts else f"    and {self.source.numbering}s {rest}"

    def _overlong(self) -> Iterator[str]:
        over = f"over-long (more than {self.max_length:,} tokens)"
        if self.overlong_cut:
            yield f"  {over}: {self.overlong_cut:,} cut to their first {self.max_length:,} tokens"
        if self.overlong_emptied:
            yield f"  {over}: {self.overlong_emptied:,} dropped, for the cut leaves no supervised token"
        if self.overlong_dropped:
            yield f"  {over}: {self.overlong_dropped:,} dropped"


@dataclass(frozen=True)
class DataReport:
    """Everything that was decided about the data."""

    splits: tuple[SplitReport, ...]
    """The training source and the held-out source; one when a split was made or only one source was read."""
    how_split: str | None = None
    """The split made, in words; None when held-out data came from a source of its own."""
    test: Counts | None = None
    """The held-out side of that split."""
    test_limit: str | None = None
    removed_across_split: int = 0
    """Training examples with exactly the tokens of a held-out one, taken out of the training data."""

    def lines(self) -> list[str]:
        """All of it, to be printed."""
        found: list[str] = []
        for split in self.splits:
            found.extend(split.lines())
        if self.how_split:
            found.append(f"split: {self.how_split}")
        if self.removed_across_split:
            found.append(
                f"duplicates removed across the split: {self.removed_across_split:,} training examples "
                "equal to held-out ones, token for token"
            )
        found.extend(_use(split.role, split.used, split.limit) for split in self.splits)
        if self.test is not None:
            found.append(_use("held out", self.test, self.test_limit))
        return found


def _use(role: str, counts: Counts, limit: str | None) -> str:
    return f"{role} uses: {counts}" + (f" ({limit})" if limit else "")
