"""What a generator gives, and what it must state about itself so that its rows can be checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

ChatRow = dict[str, Any]
"""{"messages": [...]}, as a file of chats holds it."""


@dataclass(frozen=True)
class GeneratedData:
    """Chat rows, and what is known about them."""

    train: list[ChatRow]
    test: list[ChatRow]
    facts: dict[str, float] = field(default_factory=dict)
    """`train_floor_nats`, `test_floor_nats`: entropy of all the replies of a split given their prompts (and, for
    biographies and the corpus, given the facts); `bits_per_person`, `fact_bits` for biographies."""


@dataclass(frozen=True)
class Option:
    """A number that a user may set: whole when its default is."""

    default: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Generator:
    """Built-in data of one name. `size`, `test_size` and `seed` are options of all of them."""

    name: str
    generate: Callable[..., GeneratedData]
    """From the options by name. Raises ValueError when they ask for more than there is."""
    options: Mapping[str, Option]
    train_rows: Callable[[Mapping[str, float]], float]
    """How many training rows its options ask for."""
    problem: Callable[[str], Hashable]
    """What a prompt asks, without its wording: training and held-out rows share none."""
    small: str
    """Options of a few dozen rows, for the laws of tests/laws/test_builtin_data.py."""


def chat_row(prompt: str, reply: str) -> ChatRow:
    """One user turn and one assistant turn."""
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]}


Draw = Callable[[], tuple[Any, ChatRow, float]]
"""A problem, its row, and the nats of the reply given the prompt."""


def distinct_splits(draw: Draw, size: int, test_size: int) -> GeneratedData:
    """Test problems first, then train problems that are none of them."""
    seen: set[Any] = set()
    test = list(_distinct(draw, test_size, seen))
    train = list(_distinct(draw, size, seen))
    facts = {"train_floor_nats": math.fsum(n for _, n in train), "test_floor_nats": math.fsum(n for _, n in test)}
    return GeneratedData([row for row, _ in train], [row for row, _ in test], facts)


def _distinct(draw: Draw, count: int, seen: set[Any]) -> Iterator[tuple[ChatRow, float]]:
    misses = 0
    while count:
        key, row, nats = draw()
        if key in seen:
            misses += 1
            if misses > 10_000:
                raise ValueError(
                    f"the problems run out {count} short of the size asked for; raise difficulty or lower size"
                )
            continue
        misses = 0
        seen.add(key)
        count -= 1
        yield row, nats
