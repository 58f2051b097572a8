"""The files of a trial that grow: metrics.jsonl, and the transcripts and failures of reinforcement learning."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lowregret.errors import RecordsError
from lowregret.runs.atomic import write_bytes, writing
from lowregret.runs.records import Metric
from lowregret.strict_json import to_json


def append_metric(path: Path, metric: Metric) -> None:
    """Append one line to metrics.jsonl in a single write."""
    with writing(path), open(path, "ab") as file:
        line = metric.model_dump(mode="json", exclude_none=True)
        file.write((to_json(line) + "\n").encode())


def read_metrics(path: Path) -> list[Metric]:
    """All complete lines of metrics.jsonl, one a step and none missing; a last line torn by a kill is left out."""
    return list(_metrics(path))


def _metrics(path: Path, until: float = math.inf) -> Iterator[Metric]:
    """Line after line, up to that of step `until`: what comes later is not looked at.

    RecordsError at a damaged line, and at one that is not of the step after the line before. Zeros at the end are what
    a power cut leaves of lines that had not reached the disk: they are no lines.
    """
    if until < 0 or not path.exists():
        return
    last: int | None = None
    for number, line in enumerate(path.read_bytes().rstrip(b"\0").split(b"\n")[:-1], start=1):
        if last is not None and last >= until:
            return
        try:
            metric = Metric.model_validate_json(line)
        except ValidationError as error:
            raise RecordsError(f"{path}:{number}: damaged ({error.errors()[0]['msg']}). {_REMEDY}") from error
        if metric.step > until:
            return
        if metric.step != (last + 1 if last is not None else max(min(metric.step, 1), 0)):
            before = f"after that of step {last}" if last is not None else "as the first"
            raise RecordsError(f"{path}:{number}: the line of step {metric.step} comes {before}. {_REMEDY}")
        last = metric.step
        yield metric


_REMEDY = "Bring the file back as it was, or delete the trial's folder: the trial is repeated."


def require_curve(path: Path, steps: int) -> list[Metric]:
    """The lines of a trial that has taken so many steps; RecordsError when some are missing."""
    found = read_metrics(path)
    last = found[-1].step if found else 0
    if last != steps:
        raise RecordsError(f"{path}: ends with step {last}, and the trial has taken {steps}. {_REMEDY}")
    return found


def held_out_curve(path: Path) -> dict[int, float]:
    """Step → held-out loss, of the steps that were evaluated.

    It is the `Metric.shared_loss`: on the examples that all trials of the folder share, so that curves compare."""
    return {metric.step: loss for metric in read_metrics(path) if (loss := metric.shared_loss) is not None}


def keep_metrics_until(path: Path, step: int) -> list[Metric]:
    """Drop the lines after `step`, whatever they hold: a resumed trial writes them again. Returns those before.

    RecordsError when there are not all of those before: a curve with a hole would be no curve of this trial.
    """
    kept = list(_metrics(path, step))
    last = kept[-1].step if kept else 0
    if last < step:
        raise RecordsError(f"{path}: ends with step {last}, and the checkpoint is of step {step}. {_REMEDY}")
    lines = (to_json(metric.model_dump(mode="json", exclude_none=True)) + "\n" for metric in kept)
    write_bytes(path, "".join(lines).encode())
    return kept


def append_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Append objects, one a line, in a single write."""
    text = "".join(to_json(line, ensure_ascii=False) + "\n" for line in lines)
    if text:
        with writing(path), open(path, "ab") as file:
            file.write(text.encode("utf-8", errors="replace"))


def keep_lines_until(path: Path, step: int) -> None:
    """Drop the lines after `step`, which are written again, and damaged ones: no result hangs on them."""
    if not path.exists():
        return
    kept = [line for line in path.read_bytes().split(b"\n")[:-1] if _step_of(line) <= step]
    write_bytes(path, b"".join(line + b"\n" for line in kept))


def _step_of(line: bytes) -> float:
    """Of a line of transcripts or failures; infinite for one that does not say it."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf
