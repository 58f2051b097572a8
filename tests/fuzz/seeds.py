"""What is spoilt: whole and small files of every form that lowregret reads, made once."""

from __future__ import annotations

import gzip
import json
import shutil
from importlib import resources
from pathlib import Path

from tests import gguf_files

_TRAIN = ("--model", "tiny-32", "--learning-rate", "1e-3", "--steps", "2", "--batch-size", "2", "--quiet")


def rows(count: int = 8) -> list[dict[str, object]]:
    """Chats of two turns."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is {number} + 1?"},
                {"role": "assistant", "content": f"It is {number + 1}."},
            ]
        }
        for number in range(count)
    ]


def write_files(home: Path) -> None:
    """Data in every format, a model's folder and a .gguf file."""
    import pyarrow
    import pyarrow.parquet

    home.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows())
    (home / "rows.jsonl").write_text(lines)
    (home / "rows.json").write_text(json.dumps(rows()))
    (home / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    pairs = [{"prompt": f"What is {n} + 1?", "completion": f"It is {n + 1}."} for n in range(8)]
    (home / "rows.csv").write_text(
        "prompt,completion\n" + "".join(f'"{p["prompt"]}","{p["completion"]}"\n' for p in pairs)
    )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(pairs), home / "rows.parquet")
    table = pyarrow.Table.from_pylist(rows())
    with pyarrow.OSFile(str(home / "rows.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    shutil.copytree(str(resources.files("lowregret.models") / "bundled" / "tiny-32"), home / "model")
    made = gguf_files.model("Llama", vocab_size=1024, hidden_size=32, intermediate_size=48, num_hidden_layers=2)
    gguf_files.write(home / "model.gguf", "llama", gguf_files.tensors(made, "llama"), gguf_files.fields(made))


def write_commands(home: Path, made: dict[str, list[str]]) -> None:
    """Keep what made the run folders: the kind `records` starts it again, and spoils only what was made."""
    (home / "commands.json").write_text(json.dumps(made))


def commands(home: Path) -> dict[str, list[str]]:
    """Run folders by name, and what makes each."""
    data = ("--data", str(home / "rows.jsonl"))
    rl = (
        "--objective",
        "rl",
        "--task",
        "builtin:arithmetic",
        "--group-size",
        "2",
        "--max-tokens",
        "4",
        "--max-eval",
        "2",
    )
    long = [word.replace("2", "4") if word == "2" else word for word in _TRAIN]
    return {
        "stopped": [
            "train", *long, *data, "--method", "lora:2", "--checkpoint-seconds", "0", "--out", str(home / "stopped")
        ],
        "run": ["train", *_TRAIN, *data, "--method", "lora:2", "--out", str(home / "run")],
        "rl": ["train", *_TRAIN, *rl, "--method", "lora:2", "--out", str(home / "rl")],
        "compare": [
            "compare", *(word for word in _TRAIN if word not in ("--learning-rate", "1e-3")), *data,
            "--methods", "lora:2,full", "--learning-rates", "1e-3,2e-3", "--seeds", "1", "--out", str(home / "compare"),
        ],
    }  # fmt: skip
