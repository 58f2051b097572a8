"""Training data in numbers, whoever counted them. Torch-free: a plan is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Counted = Literal["exact", "sampled", "estimated", "assumed"]
"""exact: every row through the model's tokenizer; sampled: some rows through it; estimated: no tokenizer at hand;
assumed: no data."""

PROBLEMS_SHOWN = 8
DEFAULT_LENGTH = 512
"""What the trainer's --max-length is when nobody says otherwise."""
_LONGEST_ADVISED = 4096


@dataclass(frozen=True)
class ExampleLength:
    """One example."""

    tokens: int
    supervised: int
    """Those that the loss counts."""

    def cut(self, max_length: int) -> ExampleLength:
        """Its first `max_length` tokens; the end of an example is its supervised part, so that is what a cut loses."""
        lost = max(self.tokens - max_length, 0)
        return ExampleLength(self.tokens - lost, max(self.supervised - lost, 0))


@dataclass(frozen=True)
class DataFacts:
    """Training data in numbers; those of `train` after the cut to `max_length` and without what is held out."""

    source: str
    layout: str
    """The columns used, such as `question -> answer`; empty when no row could be read."""
    examples: int
    tokens: int
    """Prompts and chat template included."""
    supervised_tokens: int
    longest: int
    """Tokens of the longest example after the cut."""
    max_length: int
    overlong: int
    """Examples that the cut shortens."""
    held_out: int
    """Examples that judge; 0 when unknown."""
    held_out_from: str
    counted: Counted
    how: str
    """Where the token counts come from, as a phrase."""
    problems: tuple[str, ...] = ()
    """Rows that cannot be used and other faults, as sentences that name their place."""
    notes: tuple[str, ...] = ()
    """What was found in the files that their names do not say, such as an encoding."""
    blocked: bool = False
    """No row can be trained on with this base as it stands: its chat template is broken, or refuses them all."""
    fact_bits: float | None = None
    """Bits of the new facts that the rows tell, where whoever made them says so."""

    @property
    def mean_length(self) -> float:
        """Tokens of an example."""
        return self.tokens / max(self.examples, 1)

    @property
    def supervised_share(self) -> float:
        """Of all tokens, those that the loss counts."""
        return self.supervised_tokens / max(self.tokens, 1)


def choose_max_length(lengths: Sequence[ExampleLength], context: int | None) -> int:
    """The trainer's default when it cuts at most one example in a hundred, else the next power of two of which that is
    true; at most 4,096 tokens and the base's positions."""
    most = min(_LONGEST_ADVISED, context or _LONGEST_ADVISED)
    wanted = DEFAULT_LENGTH
    while wanted < most and 100 * sum(length.tokens > wanted for length in lengths) > len(lengths):
        wanted *= 2
    return min(wanted, most)


def list_problems(problems: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """(place, reason) of each fault → at most eight sentences, and one that counts the rest."""
    shown = [f"{place}: {reason}" for place, reason in problems[:PROBLEMS_SHOWN]]
    rest = len(problems) - len(shown)
    if rest:
        shown.append(f"and {rest:,} more, up to {problems[-1][0]}")
    return tuple(shown)
