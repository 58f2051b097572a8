"""What reinforcement learning writes beside other records: transcripts, and samples that could not be graded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lowregret.records import write_bytes, writing

TRANSCRIPTS = "transcripts.jsonl"
"""Completions of the first held-out problems at each evaluation: {"step", "prompt", "completion", "reward"}."""
FAILURES = "failures.jsonl"
"""Samples whose grading failed: {"step", "prompt", "completion", "reward", "error"}."""


def append_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Append objects, one a line, in a single write."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    if text:
        with writing(path), open(path, "ab") as file:
            file.write(text.encode("utf-8", errors="replace"))


def keep_lines_until(path: Path, step: int) -> None:
    """Drop the lines after `step`, and one torn by a kill: a trial that goes on writes them again."""
    if path.exists():
        whole = path.read_bytes().split(b"\n")[:-1]
        kept = [line for line in whole if json.loads(line)["step"] <= step]
        write_bytes(path, b"".join(line + b"\n" for line in kept))
