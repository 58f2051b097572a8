"""`builtin:arithmetic`: chains of one-digit additions and subtractions, worked step by step."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

from lowregret.data.builtin.base import ChatRow, GeneratedData, Generator, Option, chat_row, distinct_splits

PROMPTS = ("Work out {}.", "Calculate {}.", "What is {}?", "Find {}.")


@dataclass(frozen=True)
class SumChain:
    """`start` followed by signed one-digit `moves`; every true intermediate result is a digit."""

    start: int
    moves: tuple[int, ...]

    @property
    def expression(self) -> str:
        return str(self.start) + "".join(f" {_signed(move)}" for move in self.moves)

    @property
    def answer(self) -> int:
        return self.start + sum(self.moves)


def _signed(move: int) -> str:
    return f"{'+' if move > 0 else '-'} {abs(move)}"


def _moves_from(value: int) -> list[int]:
    return [move for move in range(-9, 10) if move != 0 and 0 <= value + move <= 9]


def draw_chain(generator: random.Random, steps: int) -> tuple[SumChain, float]:
    """A chain of so many steps, and the nats that its draw took."""
    start = generator.randint(1, 9)
    value, moves, nats = start, [], math.log(9)
    for _ in range(steps):
        choices = _moves_from(value)
        moves.append(generator.choice(choices))
        value += moves[-1]
        nats += math.log(len(choices))
    return SumChain(start, tuple(moves)), nats


def work(chain: SumChain, generator: random.Random, wrong: float) -> tuple[str, float]:
    """The worked solution, each step written wrong with probability `wrong`, and the nats of that noise.

    A wrong step replaces its result by another digit, uniformly, and the work goes on from there. When the right result
    is not a digit (only after an earlier mistake) any of the ten digits may be the wrong one.
    """
    value, lines, nats = chain.start, [], 0.0
    for move in chain.moves:
        right = value + move
        others = [digit for digit in range(10) if digit != right]
        if wrong and generator.random() < wrong:
            result = generator.choice(others)
            nats += -math.log(wrong) + math.log(len(others))
        else:
            result = right
            nats += -math.log1p(-wrong)
        lines.append(f"{value} {_signed(move)} = {result}")
        value = result
    return "\n".join([*lines, f"Answer: {value}"]), nats


def read_answer(completion: str) -> int | None:
    """The number after the last `Answer:`, or None."""
    _, found, tail = completion.rpartition("Answer:")
    words = tail.split()
    if not found or not words:
        return None
    try:
        return int(words[0])
    except ValueError:
        return None


def generate(size: int, seed: int, test_size: int, difficulty: int, wrong: float) -> GeneratedData:
    """Worked chains of `difficulty` steps, each step wrong with probability `wrong`."""
    generator = random.Random(f"arithmetic {seed} {difficulty}")

    def draw() -> tuple[Any, ChatRow, float]:
        chain, _ = draw_chain(generator, difficulty)
        solution, nats = work(chain, generator, wrong)
        return chain, chat_row(generator.choice(PROMPTS).format(chain.expression), solution), nats

    return distinct_splits(draw, size, test_size)


GENERATOR = Generator(
    name="arithmetic",
    generate=generate,
    options={
        "size": Option(1024, 1, 10**6),
        "seed": Option(0, 0, 2**31),
        "test_size": Option(256, 1, 10**5),
        "difficulty": Option(3, 1, 12),
        "wrong": Option(0.0, 0.0, 0.9),
    },
    train_rows=lambda options: options["size"],
    problem=lambda prompt: "".join(character for character in prompt if character in "0123456789+-"),
    small="size=80,test_size=40,difficulty=2,wrong=0.2",
)
