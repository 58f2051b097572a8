"""`builtin:corpus`: what the bundled bases are pretrained on, documents whose entropy is known.

A document's `nats` is the entropy of its draw given its kind, and given the facts about the known people, which repeat
so often that a trained base knows them. So a base's mean loss in nats per document cannot lie below the mean of `nats`:
it holds that much, and what the first tokens tell about the kind.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lowregret.data.builtin.arithmetic import PROMPTS, draw_chain, work
from lowregret.data.builtin.base import ChatRow, GeneratedData, Generator, Option, chat_row
from lowregret.data.builtin.instructions import OPERATIONS, draw_instruction
from lowregret.data.builtin.people import ATTRIBUTES, Person, draw_people

KINDS = ("biography", "question", "arithmetic", "instruction")


@dataclass(frozen=True)
class Document:
    """A chat or a text, its kind, and the entropy of its draw in nats."""

    kind: str
    nats: float
    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    reply_nats: float = 0.0
    """Of these, what the reply takes given the prompt and the facts: 0 where they determine it."""


def draw_documents(
    count: int,
    seed: int,
    *,
    mix: Mapping[str, float],
    people: int,
    wrong: float,
    longest: int,
    difficulty: int,
) -> Iterator[Document]:
    """`count` documents of the kinds in `mix` (shares, made to sum to one).

    `people` known people, arithmetic of 1 to `difficulty` steps with each step wrong with probability `wrong`, and
    instructions on up to `longest` items. Different seeds give different documents about the same people.
    """
    known = draw_people(people, 0, known=True)
    generator = random.Random(f"corpus {seed}")
    kinds = generator.choices(list(mix), weights=list(mix.values()), k=count)
    for kind in kinds:
        if kind == "biography":
            yield _biography(generator, known)
        elif kind == "question":
            yield _question(generator, known)
        elif kind == "arithmetic":
            yield _arithmetic(generator, difficulty, wrong)
        else:
            yield _instruction(generator, longest)


def _biography(generator: random.Random, people: list[Person]) -> Document:
    """All facts of one person, in any order, each in one of its wordings."""
    person = generator.choice(people)
    order = generator.sample(range(len(ATTRIBUTES)), len(ATTRIBUTES))
    nats = math.log(len(people)) + math.log(math.factorial(len(ATTRIBUTES)))
    sentences = []
    for index in order:
        wordings = ATTRIBUTES[index].statements
        sentences.append(generator.choice(wordings).format(name=person.name, value=person.facts[index]))
        nats += math.log(len(wordings))
    return Document("biography", nats, text=" ".join(sentences))


def _question(generator: random.Random, people: list[Person]) -> Document:
    person = generator.choice(people)
    index = generator.randrange(len(ATTRIBUTES))
    questions = ATTRIBUTES[index].questions
    nats = math.log(len(people)) + math.log(len(ATTRIBUTES)) + math.log(len(questions))
    row = chat_row(generator.choice(questions).format(name=person.name), f"{person.facts[index]}.")
    return Document("question", nats, messages=row["messages"])


def _arithmetic(generator: random.Random, difficulty: int, wrong: float) -> Document:
    steps = generator.randint(1, difficulty)
    chain, nats = draw_chain(generator, steps)
    solution, noise = work(chain, generator, wrong)
    prompt = generator.choice(PROMPTS).format(chain.expression)
    nats += noise + math.log(difficulty) + math.log(len(PROMPTS))
    return Document("arithmetic", nats, messages=chat_row(prompt, solution)["messages"], reply_nats=noise)


def _instruction(generator: random.Random, longest: int) -> Document:
    """Answered directly: the openings of `builtin:instructions` are what a base does not know yet."""
    instruction, nats = draw_instruction(generator, longest)
    prompts = OPERATIONS[instruction.operation]
    prompt = generator.choice(prompts).format(" ".join(instruction.items))
    return Document(
        "instruction", nats + math.log(len(prompts)), messages=chat_row(prompt, instruction.answer)["messages"]
    )


def generate(size: int, seed: int, test_size: int) -> GeneratedData:
    """For measuring what fine-tuning forgets: `tiny`'s mix (tools/recipes/pretrain_tiny.toml) of the same people."""
    mix = {"arithmetic": 0.4, "question": 0.2, "instruction": 0.2}
    documents = draw_documents(
        4 * (size + test_size), seed + 1000, mix=mix, people=256, wrong=0.2, longest=5, difficulty=5
    )
    rows: dict[str, tuple[ChatRow, float]] = {}
    for document in documents:
        assert document.messages is not None
        rows.setdefault(document.messages[0]["content"], ({"messages": document.messages}, document.reply_nats))
    drawn = list(rows.values())
    if len(drawn) < size + test_size:
        raise ValueError(f"the documents run out after {len(drawn)}; lower size")
    test, train = drawn[:test_size], drawn[test_size : test_size + size]
    facts = {"train_floor_nats": math.fsum(n for _, n in train), "test_floor_nats": math.fsum(n for _, n in test)}
    return GeneratedData([row for row, _ in train], [row for row, _ in test], facts)


GENERATOR = Generator(
    name="corpus",
    generate=generate,
    options={"size": Option(1024, 1, 10**5), "seed": Option(0, 0, 2**31), "test_size": Option(256, 1, 10**5)},
    train_rows=lambda options: options["size"],
    problem=lambda prompt: prompt,
    small="size=80,test_size=40",
)
