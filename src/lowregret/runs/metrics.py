"""The files of a trial that grow: metrics.jsonl, and the transcripts and failures of reinforcement learning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lowregret.errors import RecordsError
from lowregret.foreign import parse_json, read_bytes
from lowregret.runs.atomic import write_bytes, writing
from lowregret.runs.records import Metric
from lowregret.strict_json import to_json

DELETE = "Delete the trial's folder."


def append_metric(path: Path, metric: Metric) -> None:
    """Append one line to metrics.jsonl in a single write."""
    with writing(path), open(path, "ab") as file:
        line = metric.model_dump(mode="json", exclude_none=True)
        file.write((to_json(line) + "\n").encode())


def read_metrics(path: Path) -> list[Metric]:
    """All complete lines of metrics.jsonl; a last line torn by a kill is left out."""
    if not path.exists():
        return []
    lines = read_bytes(path, RecordsError, DELETE).split(b"\n")
    found: list[Metric] = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            found.append(Metric.model_validate_json(line))
        except ValidationError as error:
            raise RecordsError(
                f"{path}:{number}: damaged ({error.errors()[0]['msg']}). Delete the trial's folder."
            ) from error
    return found


def held_out_curve(path: Path) -> dict[int, float]:
    """Step → held-out loss, of the steps that were evaluated.

    It is the `Metric.shared_loss`: on the examples that all trials of the folder share, so that curves compare."""
    return {metric.step: loss for metric in read_metrics(path) if (loss := metric.shared_loss) is not None}


def keep_metrics_until(path: Path, step: int) -> None:
    """Drop the lines after `step`: a resumed trial writes them again."""
    kept: Iterable[Metric] = (metric for metric in read_metrics(path) if metric.step <= step)
    lines = (to_json(metric.model_dump(mode="json", exclude_none=True)) + "\n" for metric in kept)
    write_bytes(path, "".join(lines).encode())


def append_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Append objects, one a line, in a single write."""
    text = "".join(to_json(line, ensure_ascii=False) + "\n" for line in lines)
    if text:
        with writing(path), open(path, "ab") as file:
            file.write(text.encode("utf-8", errors="replace"))


def keep_lines_until(path: Path, step: int) -> None:
    """Drop the lines after `step`, and one torn by a kill: a trial that goes on writes them again."""
    if path.exists():
        whole = read_bytes(path, RecordsError, DELETE).split(b"\n")[:-1]
        kept = [line for number, line in enumerate(whole, start=1) if read_line(line, path, number)["step"] <= step]
        write_bytes(path, b"".join(line + b"\n" for line in kept))


def read_line(line: bytes, path: Path, number: int) -> dict[str, Any]:
    """A line of such a file, which is of a `step`; RecordsError when it is damaged."""
    row = parse_json(line, f"{path}:{number}", RecordsError, DELETE)
    step = row.get("step") if isinstance(row, dict) else None
    if isinstance(step, bool) or not isinstance(step, int):
        raise RecordsError(f"{path}:{number}: damaged: it is of no step. Delete the trial's folder.")
    return dict(row)
