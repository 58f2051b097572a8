"""What a look at a source finds, as records. Torch-free: pages are made of them."""

from __future__ import annotations

from dataclasses import dataclass

_RARE = 0.01
"""Languages of fewer rows are told together: a text of one is often taken for its neighbour."""


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram."""

    low: int
    high: int
    """Tokens, both included."""
    count: int


@dataclass(frozen=True)
class Part:
    """The training or the held-out examples."""

    examples: int
    tokens: int
    supervised_tokens: int
    median: int
    longest: int
    """Tokens of an example, after the cut."""
    repeats: int
    """Examples with exactly the tokens of an earlier one of the same part."""
    histogram: tuple[Bar, ...]

    @property
    def supervised_share(self) -> float:
        """Of all tokens, those that the loss counts."""
        return self.supervised_tokens / max(self.tokens, 1)


@dataclass(frozen=True)
class Near:
    """A training example that says nearly what a held-out one says."""

    train_row: str
    held_out_row: str
    """As messages name them: `line 7`, or with the file where there are several."""
    alike: float
    """Common shingles as a share of all that either has."""


@dataclass(frozen=True)
class Shown:
    """A row of the data, rendered."""

    row: str
    """As messages name it."""
    stretches: tuple[tuple[str, bool], ...]
    """(text, whether the loss counts it), in order: all of the row's text."""


@dataclass(frozen=True)
class Overview:
    """A source in numbers, and one of its rows."""

    source: str
    train: Part
    held_out: Part | None
    """None where one row leaves nothing to hold out."""
    turns: float | None
    """Mean turns of a row; None for rows of text."""
    languages: tuple[tuple[str, float], ...]
    """(ISO 639-1 code, its share of the rows), the most first; `-` for rows too short to tell."""
    near: tuple[Near, ...]
    """Training examples that are nearly held-out ones, the most alike first."""
    lines: tuple[str, ...]
    """What preparing the data found and left out, as `train` says it."""
    shown: Shown

    @property
    def spoken(self) -> str:
        """The languages in words: those of at least a row in a hundred, and the rest as one share."""
        often = [(name, share) for name, share in self.languages if share >= _RARE]
        words = [f"{'too short to tell' if name == '-' else name} {share:.0%}" for name, share in often]
        rest = 1 - sum(share for _, share in often)
        return ", ".join([*words, *([f"others {rest:.0%}"] if rest >= _RARE / 2 else [])])
