"""The regret of a real base on two real sets: forecast first, then measured with three seeds.

    python -m benchmarks.real_forecasts forecast --model FOLDER --gsm8k FOLDER --wordnet FOLDER --out runs/real
    python -m benchmarks.real_forecasts measure --model FOLDER --gsm8k FOLDER --wordnet FOLDER --out runs/real
    python -m benchmarks.real_forecasts table --out runs/real

FOLDER of --model is SmolLM2-135M-Instruct, that of --gsm8k holds train.jsonl and test.jsonl, that of --wordnet is
WordNet 3.0's, with data.noun (in Debian's `wordnet-base`, `/usr/share/wordnet`). The forecasts are free, of a tenth and
of a fifth, and are written to docs/results/real_forecasts.json, where an entry that is there stays as it is; the
measurement goes on from the pilots. The same command goes on where it was stopped; --set NAME takes one set alone.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies import SHORT, short_rows
from transformers import AutoTokenizer

from lowregret.strict_json import to_json

FORECASTS = Path(__file__).parents[1] / "docs" / "results" / "real_forecasts.json"
METHODS = ("full", "lora:1", "lora:16", "lora:16:attention")
BUDGETS = ("free", "10%", "20%")
SETS: Mapping[str, Mapping[str, Any]] = {
    "gsm8k": {"steps": 30, "evals": [3, 6, 14, 30], "max_train": 120, "max_eval": 48},
    "wordnet": {"steps": 40, "evals": [4, 8, 18, 40], "max_train": 160, "max_eval": 96},
}
"""Written down, as the methods, before any trial of them had run."""
SYNSET = re.compile(r"^\d{8} \d\d n 01 ([a-z]{4,}) 0 .*? \| (.*)$")
"""A line of data.noun with a single plain word, and its gloss."""


def glosses(wordnet: Path) -> Iterator[dict[str, str]]:
    """What nouns mean: those of one word and one sense, the gloss without its examples, in an order drawn by name."""
    found: dict[str, list[str]] = {}
    for line in (wordnet / "data.noun").read_text(encoding="utf-8").splitlines():
        if match := SYNSET.match(line):
            found.setdefault(match[1], []).append(match[2].partition('; "')[0].strip())
    words = sorted(word for word, senses in found.items() if len(senses) == 1)
    random.Random("wordnet").shuffle(words)
    for word in words:
        yield {"prompt": f"Define the noun “{word}”.", "completion": found[word][0]}


def write_data(asked: argparse.Namespace) -> dict[str, dict[str, str]]:
    """The files of both sets: name → the fields of [data]."""
    folder = asked.out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    for part in ("train", "test"):
        short_rows(asked.gsm8k / f"{part}.jsonl", folder / f"gsm8k_{part}.jsonl", tokenizer)
    rows = [to_json(row) + "\n" for row in glosses(asked.wordnet)]
    (folder / "wordnet_test.jsonl").write_text("".join(rows[:400]), encoding="utf-8")
    (folder / "wordnet_train.jsonl").write_text("".join(rows[400:1600]), encoding="utf-8")
    return {
        name: {"train": str(folder / f"{name}_train.jsonl"), "eval": str(folder / f"{name}_test.jsonl")}
        for name in SETS
    }


def recipe(model: Path, chosen: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The comparison's TOML."""
    limits = {key: value for key, value in chosen.items() if key.startswith("max_")}
    run = {key: value for key, value in chosen.items() if key not in limits}
    fields = {"model": str(model), "methods": METHODS, "seeds": 3, "batch_size": 4, "replies": 0, **run}
    tables = {**data, "max_length": SHORT, **limits}
    lines = (f"{key} = {to_json(value)}" for key, value in fields.items())
    return "\n".join([*lines, "[data]", *(f"{key} = {to_json(value)}" for key, value in tables.items())]) + "\n"


def lowregret(*words: str) -> str:
    """What a command printed on standard output; the bench ends with the first that fails."""
    print(" ".join(("lowregret", *words)), flush=True)
    done = subprocess.run([sys.executable, "-m", "lowregret", *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def forecast(name: str, file: Path, folder: Path) -> None:
    """All three prices of one set, the dearest last, so that each goes on from the one before."""
    for budget in BUDGETS:
        known = json.loads(FORECASTS.read_text(encoding="utf-8")) if FORECASTS.exists() else {}
        if budget in known.get(name, {}):
            continue
        said = lowregret("forecast", "--config", str(file), "--out", str(folder), "--budget", budget, "--json")
        known.setdefault(name, {})[budget] = json.loads(said)
        FORECASTS.write_text(to_json(known, indent=1) + "\n", encoding="utf-8")


def table(out: Path) -> Iterator[str]:
    """Forecast beside measurement, as shares of what full fine-tuning learns."""
    yield "| set | LoRA | price | regret forecast | 90 % within | measured | 95 % within |"
    yield "|---|---|---|---|---|---|---|"
    forecasts = json.loads(FORECASTS.read_text(encoding="utf-8"))
    for name in SETS:
        prices = forecasts[name]
        verdict = json.loads((out / name / "verdict.json").read_text(encoding="utf-8"))
        measured = {method["name"]: method for method in verdict["methods"]}
        for price, said in prices.items():
            for cell in said["forecasts"]:
                found = measured[cell["method"]]
                low, high = (edge / verdict["learned"] for edge in found["ci95"])
                cells = (name, f"`{cell['method']}`", price, f"{cell['share']:+.1%}", within(*cell["share_interval"]),
                    f"{found['regret_learned']:+.1%}", within(low, high))  # fmt: skip
                yield f"| {' | '.join(cells)} |"


def within(low: float, high: float) -> str:
    """An interval of shares."""
    return f"{low:+.1%} to {high:+.1%}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=("forecast", "measure", "table"))
    for folder in ("model", "gsm8k", "wordnet"):
        parser.add_argument(f"--{folder}", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", choices=tuple(SETS), help="this set alone")
    asked = parser.parse_args()
    if asked.part == "table":
        print("\n".join(table(asked.out)))
        return 0
    if None in (asked.model, asked.gsm8k, asked.wordnet):
        parser.error("name --model, --gsm8k and --wordnet")
    files = write_data(asked)
    for name, chosen in SETS.items():
        if asked.set in (None, name):
            file = asked.out / f"{name}.toml"
            file.write_text(recipe(asked.model, chosen, files[name]), encoding="utf-8")
            if asked.part == "forecast":
                forecast(name, file, asked.out / name)
            else:
                lowregret("compare", "--config", str(file), "--out", str(asked.out / name), "--quiet", "--yes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
