"""What each form of a shipped model weighs, takes and keeps: a run's winner in all of them, each with its proof.

    python -m benchmarks.shipping RUN [RUN …] --out docs/results/shipping.json

Each RUN is a folder of `lowregret train` or `compare`. Every form that the winner has is written by `lowregret ship`
into a temporary folder and read there by PEFT, transformers or llama.cpp; what their proofs say is kept, with seconds
of wall time and bytes. A form that is refused is kept with the reason. Rows that the file has already are not measured
again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lowregret.foreign import read_json
from lowregret.runs.atomic import write_json
from lowregret.runs.proof import PROOF

FORMS = (
    ("peft",),
    ("merged",),
    ("merged", "--dtype", "float32"),
    ("merged", "--dtype", "bfloat16"),
    ("merged", "--dtype", "float16"),
    ("gguf", "--kind", "F32"),
    ("gguf", "--kind", "F16"),
    ("gguf", "--kind", "BF16"),
    ("gguf", "--kind", "Q8_0"),
    ("gguf", "--kind", "Q5_0"),
    ("gguf", "--kind", "Q4_0"),
    ("gguf-lora",),
    ("ollama",),
)
_KEPT = (
    "precision", "reader", "compared", "positions", "largest_difference", "mean_difference", "top_token_agrees",
    "same_token_ids", "same_greedy_tokens", "greedy_tokens", "held_out", "updates_lost", "holds", "bytes", "note",
)  # fmt: skip


def measure(run: Path, form: tuple[str, ...]) -> dict[str, Any]:
    """One form: its proof, or why there is none."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / run.name
        began = time.monotonic()
        command = [sys.executable, "-m", "lowregret.cli.main", "ship", str(run), "--to", *form, "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = round(time.monotonic() - began, 1)
        row: dict[str, Any] = {"run": run.name, "form": " ".join(form), "seconds": seconds}
        if done.returncode:
            return row | {
                "refused": done.stderr.strip().splitlines()[-1].replace(f"{name}/", "").replace(f"{run.parent}/", "")
            }
        proof = read_json(out / PROOF, RuntimeError, "")
        assert isinstance(proof, dict)
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
        return row | {"folder_bytes": size} | {key: proof[key] for key in _KEPT if key in proof}


def main() -> None:
    """Measure all forms of all runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    found = read_json(given.out, RuntimeError, "") if given.out.exists() else {"rows": []}
    assert isinstance(found, dict)
    rows = {(row["run"], row["form"]): row for row in found["rows"]}
    for run in given.runs:
        for form in FORMS:
            if (run.name, " ".join(form)) not in rows:
                rows[run.name, " ".join(form)] = row = measure(run, form)
                print(row, flush=True)
                write_json(given.out, {"rows": list(rows.values())})


if __name__ == "__main__":
    main()
