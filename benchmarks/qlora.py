"""What a base in NF4 costs: the regret, start loss, memory and time of `lora:16:nf4` beside `lora:16` and `full`.

    python -m benchmarks.qlora tiny --out runs/qlora/tiny
    python -m benchmarks.qlora real --model FOLDER --gsm8k FOLDER --out runs/qlora/smollm2

FOLDER of --model is SmolLM2-135M-Instruct, that of --gsm8k holds train.jsonl and test.jsonl. The same command goes on
where it was stopped. OUT/table.md and OUT/qlora.json have what came of it: of `compare`; of the merge of a trained
`lora:16:nf4` onto the base as it is, its loss both ways; and of one engine on each base, its bytes and a step's time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.studies import SHORT, short_rows
from transformers import AutoTokenizer

from lowregret.data.batches import collate
from lowregret.data.example import Example
from lowregret.engine import AdamParams, Engine
from lowregret.models.four_bit import stored_bytes
from lowregret.models.load import load_base, resolve
from lowregret.spec import LoRA
from lowregret.strict_json import to_json

METHODS = ("lora:16", "lora:16:nf4", "full")
QUANTISED = "lora:16:nf4"
SETTINGS: Mapping[str, Sequence[str]] = {
    "tiny": ("--data", "builtin:biographies:size=32,wordings=6", "--max-length", "128", "--epochs", "3"),
    "real": (*"--batch-size 4 --steps 48 --max-train 192 --max-eval 96 --max-length".split(), str(SHORT)),
}
TOKENS, STEPS = 512, 5
"""Of the pass that is timed: tokens of four rows, and repeats."""


def lowregret(*words: str) -> None:
    """One command; the bench ends with the first that fails."""
    print(" ".join(("lowregret", *words)), flush=True)
    subprocess.run([sys.executable, "-m", "lowregret", *words], check=True)


def read(file: Path) -> Any:
    """A record."""
    return json.loads(file.read_text(encoding="utf-8"))


def studied(model: str, data: Sequence[str], out: Path) -> dict[str, Any]:
    """`compare`, then one training of the quantised method at its best rate, merged."""
    common = ("--model", model, *data)
    lowregret("compare", *common, "--methods", ",".join(METHODS), "--out", str(out / "compare"))
    verdict = read(out / "compare" / "verdict.json")
    best = next(method for method in verdict["methods"] if method["name"] == QUANTISED)["best_learning_rate"]
    trained = out / "trained"
    lowregret("train", *common, "--method", QUANTISED, "--learning-rate", str(best), "--out", str(trained))
    lowregret("ship", str(trained), "--to", "merged")
    proof = read(trained / "shipped" / "lora-merged" / "proof.json")
    kept = ("name", "base_nll", "best_learning_rate", "bracketed", "test_nll", "seeds", "regret_nats", "regret_learned",
            "ci95", "alone_seconds", "peak_memory_bytes")  # fmt: skip
    return {
        "base_nll": verdict["base_nll"],
        "learned": verdict["learned"],
        "methods": [{key: method[key] for key in kept} for method in verdict["methods"]],
        "merged": proof["held_out"],
    }


def held(model: str, quantisation: Any) -> dict[str, float]:
    """Bytes of a base as an engine holds it, and the seconds of a step of one LoRA on it."""
    engine = Engine(load_base(resolve(model)).quantised(quantisation), device="cpu", precision="float32")
    engine.add_policy("a", LoRA(rank=16, quantisation=quantisation))
    length = TOKENS // 4
    rows = [Example(tuple(range(3 + row, 3 + row + length)), (False, *(True,) * (length - 1))) for row in range(4)]
    batch, taken = collate(rows, engine.base.pad_id), []
    for _ in range(STEPS + 1):
        began = time.perf_counter()
        engine.forward_backward({"a": batch})
        engine.optim_step({"a": AdamParams(1e-4)})
        taken.append(time.perf_counter() - began)
    weights = list(engine.model.parameters())
    return {
        "base_bytes": sum(map(stored_bytes, weights)),
        "parameters": sum(weight.numel() for weight in weights),
        "step_seconds": statistics.median(taken[1:]),
    }


def table(found: Mapping[str, Any]) -> str:
    """Markdown."""
    head = ("method", "start", "best rate", "loss", "regret", "95 %", "of learned", "s alone", "base", "step")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method in found["methods"]:
        quantised = method["base_nll"] is not None
        engine = found["engines"]["nf4" if quantised else "none"]
        regret = ["", "", ""]
        if method["regret_nats"] is not None:
            low, high = method["ci95"]
            regret = [f"{method['regret_nats']:+.4f}", f"{low:+.4f} to {high:+.4f}", f"{method['regret_learned']:+.1%}"]
        full = method["name"] == "full"
        cells = [
            method["name"],
            f"{method['base_nll'] if quantised else found['base_nll']:.4f}",
            f"{method['best_learning_rate']:.3g}",
            f"{method['test_nll']:.4f}",
            *regret,
            f"{method['alone_seconds']:.0f}",
            "" if full else f"{engine['base_bytes'] / 1e6:.1f} MB",
            "" if full else f"{1e3 * engine['step_seconds']:.0f} ms",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    merged = found["merged"]
    lines += [
        "",
        f"{QUANTISED} at its best rate, seed 0, {merged['examples']} held-out examples: {merged['quantised']:.4f} over "
        f"the base in NF4, {merged['shipped']:.4f} merged onto the base as it is.",
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base", choices=tuple(SETTINGS))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--gsm8k", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    data = list(SETTINGS[asked.base])
    if asked.base == "real":
        if asked.model == "tiny" or asked.gsm8k is None:
            parser.error("real: name --model and --gsm8k")
        tokenizer = AutoTokenizer.from_pretrained(asked.model)
        for part, flag in (("train", "--data"), ("test", "--eval-data")):
            rows = asked.out / "data" / f"gsm8k_{part}.jsonl"
            short_rows(asked.gsm8k / f"{part}.jsonl", rows, tokenizer)
            data += [flag, str(rows)]
    found = studied(asked.model, data, asked.out)
    found["engines"] = {name: held(asked.model, name) for name in ("none", "nf4")}
    (asked.out / "qlora.json").write_text(to_json(found, indent=2) + "\n", encoding="utf-8")
    (asked.out / "table.md").write_text(table(found), encoding="utf-8")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
