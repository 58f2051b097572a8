"""`builtin:` data: generators whose entropy is known, so that a loss can be told from the floor under it.

    builtin:biographies[:size=64,seed=0,wordings=4]             teaching: facts about people no base has met
    builtin:arithmetic[:size=1024,seed=0,difficulty=3,wrong=0]  eliciting: worked chains of `difficulty` steps
    builtin:instructions[:size=1024,seed=0,difficulty=4]        eliciting: five list tasks, replies in a new format
    builtin:corpus[:size=1024,seed=0]                           what the bundled bases were trained on, its chats only

Every value after `=` is a number. Train and test never share a problem; the test of `biographies` asks for the facts of
the train people in wordings that their training rows do not use.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from lowregret.data.bundled.arithmetic import PROMPTS, draw_problem, work
from lowregret.data.bundled.instructions import OPENINGS, TASKS, draw_instruction
from lowregret.data.bundled.people import ATTRIBUTES, BITS_PER_PERSON, TEST_QUESTIONS, draw_people
from lowregret.errors import DataError, did_you_mean

TrainRow = dict[str, Any]


@dataclass(frozen=True)
class Builtin:
    """Generated data: chat rows, and what is known about them."""

    train: list[TrainRow]
    test: list[TrainRow]
    facts: dict[str, float] = field(default_factory=dict)
    """`train_floor_nats`, `test_floor_nats`: entropy of all the replies of a split given their prompts (and, for
    biographies, given the facts); `bits_per_person`, `fact_bits` for biographies."""


def chat(prompt: str, reply: str) -> TrainRow:
    """One user turn and one assistant turn."""
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]}


def _biographies(size: int, seed: int, test_size: int, wordings: int) -> Builtin:
    if wordings > len(ATTRIBUTES[0].questions) - TEST_QUESTIONS:
        raise ValueError(f"wordings is at most {len(ATTRIBUTES[0].questions) - TEST_QUESTIONS}")
    generator = random.Random(f"biographies {seed}")
    train: list[TrainRow] = []
    test: list[TrainRow] = []
    for person in draw_people(size, seed, known=False):
        for attribute, value in zip(ATTRIBUTES, person.facts, strict=True):
            usual = list(attribute.questions[:-TEST_QUESTIONS])
            for question in generator.sample(usual, wordings):
                train.append(chat(question.format(name=person.name), f"{value}."))
            question = generator.choice(attribute.questions[-TEST_QUESTIONS:])
            test.append(chat(question.format(name=person.name), f"{value}."))
    generator.shuffle(train)
    generator.shuffle(test)
    facts = {"bits_per_person": BITS_PER_PERSON, "fact_bits": BITS_PER_PERSON * size}
    return Builtin(train, test[:test_size], {**facts, "train_floor_nats": 0.0, "test_floor_nats": 0.0})


def _distinct(
    draw: Callable[[], tuple[Any, TrainRow, float]], count: int, seen: set[Any]
) -> Iterator[tuple[TrainRow, float]]:
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


def _split(draw: Callable[[], tuple[Any, TrainRow, float]], size: int, test_size: int) -> Builtin:
    """Test problems first, then train problems that are none of them."""
    seen: set[Any] = set()
    test = list(_distinct(draw, test_size, seen))
    train = list(_distinct(draw, size, seen))
    facts = {"train_floor_nats": math.fsum(n for _, n in train), "test_floor_nats": math.fsum(n for _, n in test)}
    return Builtin([row for row, _ in train], [row for row, _ in test], facts)


def _arithmetic(size: int, seed: int, test_size: int, difficulty: int, wrong: float) -> Builtin:
    generator = random.Random(f"arithmetic {seed} {difficulty}")

    def draw() -> tuple[Any, TrainRow, float]:
        problem, _ = draw_problem(generator, difficulty)
        solution, nats = work(problem, generator, wrong)
        return problem, chat(generator.choice(PROMPTS).format(problem.expression), solution), nats

    return _split(draw, size, test_size)


def _instructions(size: int, seed: int, test_size: int, difficulty: int) -> Builtin:
    generator = random.Random(f"instructions {seed} {difficulty}")

    def draw() -> tuple[Any, TrainRow, float]:
        instruction, _ = draw_instruction(generator, max(2, difficulty))
        prompt = generator.choice(TASKS[instruction.task]).format(" ".join(instruction.items))
        reply = f"{generator.choice(OPENINGS)} {instruction.answer}"
        return instruction, chat(prompt, reply), math.log(len(OPENINGS))

    return _split(draw, size, test_size)


def _corpus(size: int, seed: int, test_size: int) -> Builtin:
    """For measuring what fine-tuning forgets: the mix of recipes/pretrain_tiny.toml, about the same known people."""
    from lowregret.data.bundled.corpus import draw_documents  # it needs this module

    mix = {"arithmetic": 0.4, "question": 0.2, "instruction": 0.2}
    documents = draw_documents(
        4 * (size + test_size), seed + 1000, mix=mix, people=256, wrong=0.2, longest=5, difficulty=5
    )
    rows: dict[str, TrainRow] = {}
    for document in documents:
        assert document.messages is not None
        rows.setdefault(document.messages[0]["content"], {"messages": document.messages})
    drawn = list(rows.values())
    if len(drawn) < size + test_size:
        raise ValueError(f"the documents run out after {len(drawn)}; lower size")
    return Builtin(drawn[test_size : test_size + size], drawn[:test_size])


_Bounds = tuple[float, float, float]
_GENERATORS: dict[str, tuple[Callable[..., Builtin], dict[str, _Bounds]]] = {
    # name: (generator, {key: (default, lowest, highest)})
    "biographies": (
        _biographies,
        {"size": (64, 1, 2048), "seed": (0, 0, 2**31), "test_size": (256, 1, 10240), "wordings": (4, 1, 6)},
    ),
    "arithmetic": (
        _arithmetic,
        {
            "size": (1024, 1, 10**6),
            "seed": (0, 0, 2**31),
            "test_size": (256, 1, 10**5),
            "difficulty": (3, 1, 12),
            "wrong": (0.0, 0.0, 0.9),
        },
    ),
    "instructions": (
        _instructions,
        {"size": (1024, 1, 10**6), "seed": (0, 0, 2**31), "test_size": (256, 1, 10**5), "difficulty": (4, 2, 8)},
    ),
    "corpus": (_corpus, {"size": (1024, 1, 10**5), "seed": (0, 0, 2**31), "test_size": (256, 1, 10**5)}),
}


def builtin_names() -> list[str]:
    """The names that may follow `builtin:`."""
    return sorted(_GENERATORS)


def load_builtin(source: str) -> Builtin:
    """Generate the data that `builtin:NAME[:key=value,…]` describes; the same source gives the same rows everywhere.

    Raises DataError for an unknown name or key, or a value out of its bounds.
    """
    _, _, rest = source.partition(":")
    name, _, options = rest.partition(":")
    if name not in _GENERATORS:
        raise DataError(f"no built-in data named {name!r}. {did_you_mean(name, _GENERATORS)}", source=source)
    generator, bounds = _GENERATORS[name]
    values: dict[str, float] = {key: default for key, (default, _, _) in bounds.items()}
    for option in filter(None, options.split(",")):
        key, equals, text = option.partition("=")
        if key not in bounds or not equals:
            raise DataError(f"unknown option {option!r}; write key=value. {did_you_mean(key, bounds)}", source=source)
        values[key] = _number(source, key, text, bounds[key])
    whole = {key: value if key == "wrong" else int(value) for key, value in values.items()}
    try:
        return generator(**whole)
    except ValueError as error:
        raise DataError(f"{error}.", source=source) from None


def _number(source: str, key: str, text: str, bounds: _Bounds) -> float:
    default, low, high = bounds
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{key}={text!r} is not a number.", source=source) from None
    if not low <= value <= high or (isinstance(default, int) and value != int(value)):
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise DataError(f"{key} must be {kind} from {low:g} to {high:g}, not {text}.", source=source)
    return value
