"""What a run that was stopped and went on must have in common with one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowregret.runs.atomic import read_record
from lowregret.runs.files import EXAMPLES, METRICS, TRIAL
from lowregret.runs.metrics import read_metrics
from lowregret.runs.records import TrialRecord

_TIMES = {"seconds", "shared_seconds", "shared_seconds_alone", "evaluation_seconds", "peak_memory_bytes"}


def numbers(folder: Path) -> dict[str, Any]:
    """File below a folder → records, curves, example losses and weights, but for times and memory."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == TRIAL:
            found[name] = read_record(TrialRecord, path).model_dump(exclude=_TIMES)
        elif path.name == METRICS:
            found[name] = [metric.model_dump(exclude=_TIMES) for metric in read_metrics(path)]
        elif path.is_file() and (path.suffix == ".safetensors" or path.name == EXAMPLES):
            found[name] = path.read_bytes()
    return found
