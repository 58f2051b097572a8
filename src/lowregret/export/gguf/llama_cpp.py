"""Asking llama.cpp, by the wheel `xllamacpp`, what it makes of a GGUF file."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lowregret.errors import ModelError
from lowregret.foreign import read_json, real_path
from lowregret.strict_json import to_json

TOP = 200
"""Of how many tokens the log-probabilities are compared at a place."""
_WORKER = Path(__file__).with_name("worker.py")
_TIMED_OUT = "Give it more time, or prove it on a faster machine."


@dataclass(frozen=True)
class Answers:
    """What llama.cpp said."""

    tokens: Sequence[Sequence[int]]
    """Of each text."""
    continued: Sequence[Mapping[str, Any]]
    """Of each prompt: the greedy `tokens`, and `tops`, of the first of their places: [token, log-probability] of the
    most probable tokens there."""
    log_probabilities: Sequence[Sequence[float]]
    """Of the places asked for in each row."""


def reader_name() -> str:
    """llama.cpp's wheel and version; ModelError, saying how to get it, when it is not installed."""
    try:
        return f"llama.cpp (xllamacpp {version('xllamacpp')})"
    except PackageNotFoundError:
        raise ModelError(
            "xllamacpp, the wheel of llama.cpp that a GGUF file is proved by, is not installed. "
            "pip install 'lowregret[ship]'"
        ) from None


def ask(
    file: Path,
    *,
    lora: Path | None,
    rows: int,
    texts: Sequence[str],
    prompts: Sequence[Sequence[int]],
    continued: int,
    scored: Sequence[tuple[Sequence[int], Sequence[int]]] = (),
    seconds: float,
) -> Answers:
    """Have llama.cpp load a file, and a LoRA on it, in a process of its own.

    `rows`: of the vocabulary; `texts` to be tokenised; `prompts`: tokens to be continued greedily by so many;
    `scored`: tokens, and places in them whose log-probabilities are wanted. ModelError when llama.cpp refuses the file,
    ends its process, or takes longer.
    """
    reader_name()
    longest = max([len(ids) + continued for ids in prompts] + [len(ids) for ids, _ in scored] + [256])
    questions = {
        "file": str(real_path(file)),
        "lora": str(real_path(lora)) if lora else "",
        "context": -(-(longest + 8) // 256) * 256,
        "threads": max(1, (os.cpu_count() or 1) // 2),  # its threads wait by spinning: beside others they stand still
        "rows": rows,
        "top": min(TOP, rows),
        "continue": continued,
        "texts": list(texts),
        "prompts": [list(ids) for ids in prompts],
        "scored": [{"ids": list(ids), "at": list(at)} for ids, at in scored],
    }
    with tempfile.TemporaryDirectory(prefix="lowregret-llama-cpp-") as made:
        asked, answered = Path(made) / "questions.json", Path(made) / "answers.json"
        asked.write_text(to_json(questions), encoding="utf-8")
        _run(lora or file, [sys.executable, str(_WORKER), str(asked), str(answered)], seconds)
        said = read_json(answered, ModelError, "Run the same command again.")
    return Answers(**said)


def _run(place: Path, command: Sequence[str], seconds: float) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"{place}: llama.cpp took more than {seconds:g} seconds. {_TIMED_OUT}") from None
    if done.returncode:
        lines = ["it said nothing", *(line.strip() for line in done.stderr.splitlines() if line.strip())]
        told = next((line for line in reversed(lines) if "error" in line.lower()), lines[-1])
        how = f"by signal {-done.returncode}" if done.returncode < 0 else f"with {done.returncode}"
        raise ModelError(
            f"{place}: llama.cpp ended {how} and does not take the file ({told:.300}). Ship the merged model "
            "(--format merged), or write the file anew."
        )
