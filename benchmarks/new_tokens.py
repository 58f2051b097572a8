"""Data in which answers have tokens that `tiny` never writes: what is known, said in a form of its own.

    python -m benchmarks.new_tokens FOLDER

writes FOLDER/train.jsonl and FOLDER/test.jsonl: questions about people whom `tiny` knows, three wordings each, answered
as "Result <value> ; checked". The facts are there already, so what there is to learn is a form of answer, most of whose
tokens the base gives next to no probability. The people of the test are not those of the training.
docs/findings/2026-11-28-unembedding.md has what came of it.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from lowregret.data.builtin.people import ATTRIBUTES, draw_people
from lowregret.strict_json import to_json

_PEOPLE, _WORDINGS, _TEST_PEOPLE = 256, 3, 48
_TRAIN_ROWS, _TEST_ROWS = 2400, 160


def rows() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """(train, test) as prompt and completion; the same every time."""
    draw = random.Random(0)
    found: tuple[list[dict[str, str]], list[dict[str, str]]] = ([], [])
    for number, person in enumerate(draw_people(_PEOPLE, 0, known=True)):
        for attribute, value in zip(ATTRIBUTES, person.facts, strict=True):
            for question in draw.sample(attribute.questions, _WORDINGS):
                answer = f"Result <{value}> ; checked"
                found[number < _TEST_PEOPLE].append({"prompt": question.format(name=person.name), "completion": answer})
    for some in found:
        draw.shuffle(some)
    return found[0][:_TRAIN_ROWS], found[1][:_TEST_ROWS]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, some in zip(("train", "test"), rows(), strict=True):
        (folder / f"{name}.jsonl").write_text("".join(to_json(row) + "\n" for row in some), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
