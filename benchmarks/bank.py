"""The comparisons behind the bank of forecasts: small bases, data that teach and data that elicit, six LoRAs each.

    python -m benchmarks.bank --gsm8k FOLDER --out runs/bank [--part fit|data|base]

FOLDER of --gsm8k holds train.jsonl and test.jsonl. The same command goes on where it was stopped. Which comparisons are
for fitting and which are held out, by data set or by base, was written down here before any of them was looked at.
Every comparison has the same evaluations, each a factor of √2 after the other, so that any part of it from a hundredth
on is a pilot of itself; nothing is pruned, and the best rate is trained with two seeds. With --rest those that the
bundled bank has are left out.
"""

from __future__ import annotations

import argparse
import pydoc_data.topics
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lowregret.strict_json import to_json

Part = Literal["fit", "data", "base"]
DENSE = ("lora:1", "lora:4", "lora:16", "lora:64", "lora:16:attention", "lora:16:mlp")
MIXTURE = ("lora:1", "lora:4", "lora:16", "lora:16:attention", "lora:16:mlp", "lora:16:shared-outer")
FACTS = "builtin:biographies:size={},wordings=6,seed={}"
HELD_OUT_ROWS = 64
FINISHED = Path(__file__).parents[1] / "docs" / "results" / "bank_finished.txt"
"""The names of the comparisons that the bundled bank has, a line each (`benchmarks.forecasts collect`)."""


@dataclass(frozen=True)
class Setting:
    """One comparison."""

    part: Part
    model: str
    data: str
    """Of `builtin:` or the name of a file that `write_data` makes."""
    steps: int
    batch: int = 8

    @property
    def name(self) -> str:
        data = self.data.removeprefix("builtin:").replace(":", "-").replace("=", "").replace(",", "-")
        return f"{self.part}.{self.model}.{data}.{self.steps}x{self.batch}"


def facts(size: int, seed: int = 0) -> str:
    """So many people's facts."""
    return FACTS.format(size, seed)


SUMS, LISTS = "builtin:arithmetic", "builtin:instructions"
SETTINGS = (
    *(
        Setting("fit", "tiny", data, steps, batch)
        for data, steps, batch in (
            (facts(16), 120, 8), (facts(32), 120, 8), (facts(32), 360, 8), (facts(64), 240, 8), (facts(128), 240, 8),
            (facts(32, 1), 240, 4), (facts(64, 1), 120, 16), (facts(128, 1), 120, 32),
            (SUMS, 60, 8), (SUMS, 240, 8), (SUMS, 120, 32),
            (LISTS, 60, 8), (LISTS, 240, 8), (LISTS, 120, 32),
            ("words-128", 240, 8), ("words-512", 240, 8), ("prose", 120, 8), ("prose", 240, 8),
        )
    ),
    *(
        Setting("fit", "tiny-64", data, steps, batch)
        for data, steps, batch in (
            (facts(32), 240, 8), (facts(64), 120, 16), (SUMS, 120, 8), (LISTS, 120, 8), ("words-128", 240, 8),
            ("prose", 120, 8),
        )
    ),
    *(
        Setting("data", model, data, steps)
        for data in ("letters", "gsm8k")
        for model, steps in (("tiny", 120), ("tiny", 240), ("tiny-64", 120))
    ),
    *(
        Setting("base", model, data, steps)
        for model, data, steps in (
            ("tiny-32", facts(32), 240), ("tiny-32", SUMS, 120), ("tiny-32", LISTS, 120),
            ("tiny-moe", facts(32), 240), ("tiny-moe", LISTS, 120),
        )
    ),
)  # fmt: skip
"""Of `data` neither data set, of `base` neither base is among those for fitting."""


def settings_in_turn() -> list[Setting]:
    """Those for fitting and those held out by turns, so that what is there when time is up is a sample of both."""
    parts = [[found for found in SETTINGS if found.part == part] for part in ("fit", "data", "base")]
    places = [(place / len(part), found) for part in parts for place, found in enumerate(part)]
    return [found for _, found in sorted(places, key=lambda each: each[0])]


def made_up_words(count: int, generator: random.Random) -> list[str]:
    """Words of three syllables, each once."""
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(generator.choice("bdfgklmnprstvz") + generator.choice("aeiou") for _ in range(3))] = None
    return list(found)


def dictionary(size: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """What made-up words mean, asked in four ways; the test asks in two others."""
    generator = random.Random(f"words {size}")
    words, meanings = made_up_words(size, generator), [generator.choice("red blue green black white".split()) + " "
        + generator.choice("house tree fish stone bird lamp boat ring".split()) for _ in range(size)]  # fmt: skip
    ways = ("What does {} mean?", "Translate {}.", "{} in English, please.", "Give the meaning of {}.")
    others = ("Say {} in English.", "What is the meaning of {}?")
    train = [_row(way.format(word), meaning) for word, meaning in zip(words, meanings, strict=True) for way in ways]
    test = [
        _row(others[n % 2].format(word), meaning) for n, (word, meaning) in enumerate(zip(words, meanings, strict=True))
    ]
    generator.shuffle(train)
    generator.shuffle(test)
    return train, test


def letters() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """A rule: each letter becomes the next one of the alphabet. The words of the test are in no row of training."""
    words = made_up_words(1100, random.Random("letters"))
    rows = [
        _row(f"Move each letter one on: {word}", "".join(chr(ord(letter) + 1) for letter in word)) for word in words
    ]
    return rows[100:], rows[:100]


def prose() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Paragraphs of Python's own help; every eighth is held out."""
    texts = [
        " ".join(part.split()) for _, text in sorted(pydoc_data.topics.topics.items()) for part in text.split("\n\n")
    ]
    rows = [{"text": text[:300]} for text in texts if len(text) > 120]
    return [row for n, row in enumerate(rows) if n % 8], rows[::8]


def _row(prompt: str, completion: str) -> dict[str, str]:
    return {"prompt": prompt, "completion": completion}


def write_data(folder: Path, gsm8k: Path) -> dict[str, dict[str, str]]:
    """The files that are not built in: name → the fields of [data]."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {"words-128": dictionary(128), "words-512": dictionary(512), "letters": letters(), "prose": prose()}
    found = {"gsm8k": {"train": str(gsm8k / "train.jsonl"), "eval": str(gsm8k / "test.jsonl")}}
    for name, parts in made.items():
        files = [folder / f"{name}_{part}.jsonl" for part in ("train", "test")]
        for file, rows in zip(files, parts, strict=True):
            file.write_text("".join(to_json(row) + "\n" for row in rows), encoding="utf-8")
        found[name] = {"train": str(files[0]), "eval": str(files[1])}
    return found


def recipe(setting: Setting, data: dict[str, str]) -> Iterator[str]:
    """The lines of a comparison's TOML."""
    methods = ["full", *(MIXTURE if setting.model == "tiny-moe" else DENSE)]
    fields = {
        "model": setting.model, "methods": methods, "seeds": 2, "steps": setting.steps, "batch_size": setting.batch,
        "evals": 14, "replies": 0, "prune": "off",
    }  # fmt: skip
    yield from (f"{name} = {to_json(value)}" for name, value in fields.items())
    yield "[data]"
    limits = {"max_length": 128, "max_eval": HELD_OUT_ROWS}
    yield from (f"{name} = {to_json(value)}" for name, value in (data | limits).items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gsm8k", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=("fit", "data", "base"), help="those of one part alone")
    parser.add_argument("--rest", action="store_true", help="leave out those that the bundled bank has")
    asked = parser.parse_args()
    there = set(FINISHED.read_text(encoding="utf-8").split()) if asked.rest else set()
    files = write_data(asked.out / "data", asked.gsm8k)
    failed = 0
    for setting in settings_in_turn():
        folder = asked.out / setting.name
        if asked.part not in (None, setting.part) or setting.name in there or (folder / "verdict.json").exists():
            continue
        file = asked.out / "recipes" / f"{setting.name}.toml"
        file.parent.mkdir(exist_ok=True)
        data = files.get(setting.data, {"train": setting.data})
        file.write_text("\n".join(recipe(setting, data)) + "\n", encoding="utf-8")
        print(setting.name, flush=True)
        command = ["lowregret", "compare", "--config", str(file), "--out", str(folder), "--quiet"]
        if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode != 0:
            failed += 1  # and goes on from its checkpoint the next time
            continue
        for weights in folder.glob("**/*.safetensors"):
            weights.unlink()
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
