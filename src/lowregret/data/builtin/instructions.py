"""`builtin:instructions`: short instructions on lists (copy, reverse, sort, …), with replies in a new format."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

from lowregret.data.builtin.base import ChatRow, GeneratedData, Generator, Option, chat_row, distinct_splits

WORDS = (
    "ant apple arm bag ball bear bed bell bird boat book box bread bus cake car cat clock coat cow cup desk dog door "
    "drum duck egg eye farm fish flag fox frog gate goat hand hat hen hill horse house ice ink jar key king kite lamp "
    "leaf lion map milk moon mouse nest nut owl pan pear pen pig rain ring road rock rope rose ship shoe snow sock "
    "spoon star sun tent tree van wolf"
).split()[:64]

OPERATIONS: dict[str, tuple[str, ...]] = {
    "copy": ("Repeat these words: {}", "Copy this list: {}"),
    "reverse": ("Reverse the order of these words: {}", "Write this list backwards: {}"),
    "sort": ("Sort these numbers: {}", "Put these numbers in order: {}"),
    "count": ("Count these words: {}", "How many words are here: {}"),
    "compare": ("Which number is larger: {}", "Pick the larger number: {}"),
}

OPENINGS = (
    "Sure:",
    "Of course:",
    "Here it is:",
    "Here you go:",
    "Certainly:",
    "The result:",
    "My reply:",
    "Done:",
)
"""Eight ways to open a reply, which the bundled bases have never seen: a format to be learned."""


@dataclass(frozen=True)
class Instruction:
    """An operation, its items in the order shown, and the one right answer."""

    operation: str
    items: tuple[str, ...]

    @property
    def answer(self) -> str:
        if self.operation == "reverse":
            return " ".join(reversed(self.items))
        if self.operation == "sort":
            return " ".join(sorted(self.items, key=int))
        if self.operation == "count":
            return str(len(self.items))
        if self.operation == "compare":
            return max(self.items, key=int)
        return " ".join(self.items)


def draw_instruction(generator: random.Random, longest: int) -> tuple[Instruction, float]:
    """An instruction on 2 to `longest` distinct items (compare: always two), and the nats that its draw took."""
    operation = generator.choice(list(OPERATIONS))
    nats = math.log(len(OPERATIONS))
    pool = [str(number) for number in range(10)] if operation in ("sort", "compare") else WORDS
    length = 2
    if operation != "compare":
        length = generator.randint(2, longest)
        nats += math.log(longest - 1)
    items = tuple(generator.sample(pool, length))
    nats += math.log(math.perm(len(pool), length))
    return Instruction(operation, items), nats


def generate(size: int, seed: int, test_size: int, difficulty: int) -> GeneratedData:
    """Instructions on up to `difficulty` items, each answered after one of OPENINGS."""
    generator = random.Random(f"instructions {seed} {difficulty}")

    def draw() -> tuple[Any, ChatRow, float]:
        instruction, _ = draw_instruction(generator, max(2, difficulty))
        prompt = generator.choice(OPERATIONS[instruction.operation]).format(" ".join(instruction.items))
        reply = f"{generator.choice(OPENINGS)} {instruction.answer}"
        return instruction, chat_row(prompt, reply), math.log(len(OPENINGS))

    return distinct_splits(draw, size, test_size)


def _asked(prompt: str) -> tuple[str, str]:
    """(operation, items) of a prompt."""
    head, _, items = prompt.partition(": ")
    return next(name for name, forms in OPERATIONS.items() if f"{head}: {{}}" in forms), items


GENERATOR = Generator(
    name="instructions",
    generate=generate,
    options={
        "size": Option(1024, 1, 10**6),
        "seed": Option(0, 0, 2**31),
        "test_size": Option(256, 1, 10**5),
        "difficulty": Option(4, 2, 8),
    },
    train_rows=lambda options: options["size"],
    problem=_asked,
    small="size=80,test_size=40,difficulty=3",
)
