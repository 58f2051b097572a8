"""Short instructions on lists: copy, reverse, sort, count, compare."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

WORDS = (
    "ant apple arm bag ball bear bed bell bird boat book box bread bus cake car cat clock coat cow cup desk dog door "
    "drum duck egg eye farm fish flag fox frog gate goat hand hat hen hill horse house ice ink jar key king kite lamp "
    "leaf lion map milk moon mouse nest nut owl pan pear pen pig rain ring road rock rope rose ship shoe snow sock "
    "spoon star sun tent tree van wolf"
).split()[:64]

TASKS: dict[str, tuple[str, ...]] = {
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
    """A task, its items in the order shown, and the one right answer."""

    task: str
    items: tuple[str, ...]

    @property
    def answer(self) -> str:
        if self.task == "reverse":
            return " ".join(reversed(self.items))
        if self.task == "sort":
            return " ".join(sorted(self.items, key=int))
        if self.task == "count":
            return str(len(self.items))
        if self.task == "compare":
            return max(self.items, key=int)
        return " ".join(self.items)


def draw_instruction(generator: random.Random, longest: int) -> tuple[Instruction, float]:
    """An instruction on 2 to `longest` distinct items (compare: always two), and the nats that its draw took."""
    task = generator.choice(list(TASKS))
    nats = math.log(len(TASKS))
    pool = [str(number) for number in range(10)] if task in ("sort", "compare") else WORDS
    length = 2
    if task != "compare":
        length = generator.randint(2, longest)
        nats += math.log(longest - 1)
    items = tuple(generator.sample(pool, length))
    nats += math.log(math.perm(len(pool), length))
    return Instruction(task, items), nats
