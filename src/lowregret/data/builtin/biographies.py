"""`builtin:biographies`: facts about people no base has met, asked in several wordings."""

from __future__ import annotations

import random

from lowregret.data.builtin.base import ChatRow, GeneratedData, Generator, Option, chat_row
from lowregret.data.builtin.people import ATTRIBUTES, BITS_PER_PERSON, TEST_QUESTIONS, draw_people


def generate(size: int, seed: int, test_size: int, wordings: int) -> GeneratedData:
    """Every fact of `size` people in so many wordings; the test asks each in one that training does not use."""
    if wordings > len(ATTRIBUTES[0].questions) - TEST_QUESTIONS:
        raise ValueError(f"wordings is at most {len(ATTRIBUTES[0].questions) - TEST_QUESTIONS}")
    generator = random.Random(f"biographies {seed}")
    train: list[ChatRow] = []
    test: list[ChatRow] = []
    for person in draw_people(size, seed, known=False):
        for attribute, value in zip(ATTRIBUTES, person.facts, strict=True):
            usual = list(attribute.questions[:-TEST_QUESTIONS])
            for question in generator.sample(usual, wordings):
                train.append(chat_row(question.format(name=person.name), f"{value}."))
            question = generator.choice(attribute.questions[-TEST_QUESTIONS:])
            test.append(chat_row(question.format(name=person.name), f"{value}."))
    generator.shuffle(train)
    generator.shuffle(test)
    facts = {"bits_per_person": BITS_PER_PERSON, "fact_bits": BITS_PER_PERSON * size}
    return GeneratedData(train, test[:test_size], {**facts, "train_floor_nats": 0.0, "test_floor_nats": 0.0})


GENERATOR = Generator(
    name="biographies",
    generate=generate,
    options={
        "size": Option(64, 1, 2048),
        "seed": Option(0, 0, 2**31),
        "test_size": Option(256, 1, 10240),
        "wordings": Option(4, 1, 6),
    },
    train_rows=lambda options: options["size"] * options["wordings"] * len(ATTRIBUTES),
    problem=lambda prompt: prompt,  # the test asks what was taught, in other words
    small="size=8,test_size=20",
)
