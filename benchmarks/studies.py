"""The studies behind the table of the post's claims: `tiny` in full, and a real base on two sets of short rows.

    python -m benchmarks.studies tiny --out runs/studies/tiny
    python -m benchmarks.studies real --model FOLDER --gsm8k FOLDER --out runs/studies/smollm2
    python -m benchmarks.studies table --out runs/studies/smollm2     # docs/results/smollm2_studies/trials.csv

FOLDER of --model is SmolLM2-135M-Instruct, that of --gsm8k holds train.jsonl and test.jsonl. The same command goes on
where it was stopped, of `tiny` with the questions that have no claims yet; --set NAME runs those of one set alone, so
that two commands share a machine. On the real base each set has the same five studies: learning rates, ranks, layers,
batches and forgetting, three seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
import pydoc_data.topics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lowregret.questions.registry import QUESTIONS
from lowregret.runs.files import CLAIMS, GROUPS, STUDY
from lowregret.runs.records import TrialRecord
from lowregret.runs.study import read_trials
from lowregret.strict_json import to_json

TRIALS_TABLE = Path(__file__).parents[1] / "docs" / "results" / "smollm2_studies" / "trials.csv"
SHORT = 128
"""Tokens of the longest row that is kept, template included."""
RANKS = [1, 4, 16, 64]
COMMON: Mapping[str, Any] = {"batch_size": 4, "micro_batch_size": 4, "seeds": 3, "first_eval": 3}
SETS: Mapping[str, Mapping[str, Any]] = {
    "gsm8k": {"steps": 24, "evals": 3, "rows": 96, "held_out": 48, "examples": 128, "batches": [2, 8, 32]},
    "biographies": {"steps": 60, "evals": 4, "rows": 240, "held_out": 48, "examples": 240, "batches": [4, 16, 48]},
}
"""What training elicits (sums in words, which the base half knows), and what it teaches (facts of made-up people)."""
FACTS = "builtin:biographies:size=16,wordings=3,test_size=48"


def questions(name: str) -> Iterator[dict[str, Any]]:
    """The five studies of a set, as recipes."""
    chosen = SETS[name]
    run = {**COMMON, "steps": chosen["steps"], "evals": chosen["evals"]}
    yield {"kind": "learning-rate", "ranks": RANKS, **run}
    yield {"kind": "rank", "ranks": RANKS, "sizes": [chosen["rows"]], **run}
    yield {"kind": "layers", "ranks": [4], **run}
    yield {"kind": "variants", "methods": ["lora:16"], "base_text": "{base_text}", **run}
    batches = {"examples": chosen["examples"], "batches": chosen["batches"], "ranks": [4, 16]}
    yield {"kind": "batch-size", **batches, **{key: run[key] for key in run if key not in ("steps", "batch_size")}}


def recipe(question: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """TOML, whose plain values are written as in JSON."""
    lines = [f"{key} = {to_json(value)}" for key, value in question.items()]
    return "\n".join([*lines, "[data]", *(f"{key} = {to_json(value)}" for key, value in data.items())]) + "\n"


def short_rows(source: Path, target: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """The rows of GSM8K that fit into `SHORT` tokens with their template, in their order."""
    if target.exists():
        return
    kept = []
    for line in source.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        messages = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
        if len(tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]) <= SHORT:
            kept.append(line)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(kept) + "\n", encoding="utf-8")


def everyday_text(target: Path) -> None:
    """Paragraphs of Python's own help, for what a base forgets: English that no set teaches."""
    texts = sorted(pydoc_data.topics.topics.items())
    paragraphs = [" ".join(part.split()) for _, text in texts for part in text.split("\n\n")]
    long_enough = [paragraph for paragraph in paragraphs if len(paragraph) > 200][::5]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(to_json({"text": text}) + "\n" for text in long_enough), encoding="utf-8")


def real(model: Path, gsm8k: Path, out: Path, only: str | None) -> None:
    """The studies of the real base, of all sets or of one."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    data = out / "data"
    for part in ("train", "test"):
        short_rows(gsm8k / f"{part}.jsonl", data / f"gsm8k_{part}.jsonl", tokenizer)
    everyday_text(data / "everyday.jsonl")
    files = {"train": str(data / "gsm8k_train.jsonl"), "eval": str(data / "gsm8k_test.jsonl")}
    for one_question in zip(*map(questions, SETS), strict=True):
        for (name, chosen), question in zip(SETS.items(), one_question, strict=True):
            if only not in (None, name):
                continue
            kind = str(question["kind"])
            if "base_text" in question:
                question["base_text"] = str(data / "everyday.jsonl")
            count = chosen["examples"] if kind == "batch-size" else chosen["rows"]
            limits = {"max_length": SHORT, "max_train": count, "max_eval": chosen["held_out"]}
            rows = files if name == "gsm8k" else {"train": FACTS}
            file = out / "recipes" / f"{name}-{kind}.toml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(recipe({"model": str(model), **question}, {**rows, **limits}), encoding="utf-8")
            others = [other.parent for other in sorted((out / name).glob(f"*/{STUDY}")) if other.parent.name != kind]
            study(str(file), out / name / kind, others)


def table(out: Path) -> None:
    """The real base's trials, each training once, however many questions have it."""
    found: dict[tuple[str, str, str, float, int], TrialRecord] = {}
    for name in SETS:
        for folder in sorted((out / name).glob(f"*/{GROUPS}/*")):
            condition = condition_of(name, folder)
            for record in read_trials(folder):
                if record.status != "running":
                    found.setdefault((name, condition, record.method, record.learning_rate, record.seed), record)
    with TRIALS_TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["study", "condition", "method", "learning_rate", "seed", "status", "test_nll", "steps"])
        for (name, condition, method, rate, seed), record in sorted(found.items()):
            targets = "" if ":" in method.partition(":")[2] or method == "full" else ":all"
            writer.writerow(
                [name, condition, f"{method}{targets}", rate, seed, record.status, record.test_nll, record.steps]
            )
    print(f"{TRIALS_TABLE}: {len(found)} trials")


def condition_of(name: str, folder: Path) -> str:
    """`batch-16` of another batch or length than all other questions have; `main` of theirs."""
    condition = folder.name.partition(".")[0]
    usual = f"batch-{COMMON['batch_size']}" if SETS[name]["examples"] == SETS[name]["rows"] else ""
    return "main" if folder.parts[-3] != "batch-size" or condition == usual else condition


def study(what: str, out: Path, others: Sequence[Path] = ()) -> None:
    """One `lowregret study`, which takes over what the others have trained; what fails is said by it, and the next one
    is tried."""
    print(f"{what} -> {out}", flush=True)
    taken = ["--take-from", ",".join(map(str, others))] if others else []
    subprocess.run(["lowregret", "study", what, "--out", str(out), *taken], check=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base", choices=("tiny", "real", "table"))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--gsm8k", type=Path)
    parser.add_argument("--set", choices=tuple(SETS), help="of the real base's studies, those of this set alone")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    if asked.base == "table":
        table(asked.out)
    elif asked.base == "tiny":
        for kind in QUESTIONS:
            if not (asked.out / kind / CLAIMS).exists():  # of those with claims the packed records have no curves
                study(kind, asked.out / kind)
    elif asked.model is None or asked.gsm8k is None:
        parser.error("real: name --model and --gsm8k")
    else:
        real(asked.model, asked.gsm8k, asked.out, asked.set)
    return 0


if __name__ == "__main__":
    sys.exit(main())
