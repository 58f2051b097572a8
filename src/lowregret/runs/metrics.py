"""The files of a trial that grow: metrics.jsonl, and the transcripts and failures of reinforcement learning."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lowregret.errors import RecordsError
from lowregret.runs.atomic import appending, write_bytes
from lowregret.runs.records import Metric
from lowregret.strict_json import to_json


def append_metric(path: Path, metric: Metric) -> None:
    """Append one line to metrics.jsonl in a single write."""
    with appending(path) as file:
        line = metric.model_dump(mode="json", exclude_none=True)
        file.write((to_json(line) + "\n").encode())


def read_metrics(path: Path) -> list[Metric]:
    """All complete lines of metrics.jsonl; a last line torn by a kill is left out."""
    if not path.exists():
        return []
    return _parsed(path, list(enumerate(path.read_bytes().split(b"\n")[:-1], start=1)))


_METRICS = TypeAdapter(list[Metric])


def _parsed(path: Path, lines: Sequence[tuple[int, bytes]]) -> list[Metric]:
    """Lines with their numbers, at once; RecordsError names the first that is damaged."""
    with suppress(ValidationError):
        whole = _METRICS.validate_json(b"[" + b",".join(line for _, line in lines) + b"]")
        if len(whole) == len(lines):
            return whole
    found: list[Metric] = []
    for number, line in lines:
        try:
            found.append(Metric.model_validate_json(line))
        except ValidationError as error:
            raise RecordsError(
                f"{path}:{number}: damaged ({error.errors()[0]['msg']}). Delete the trial's folder."
            ) from error
    return found


def held_out_curve(path: Path) -> dict[int, float]:
    """Step → held-out loss, of the steps that were evaluated.

    It is the `Metric.shared_loss`: on the examples that all trials of the folder share, so that curves compare. Only
    their lines are parsed: a search asks for the curves of all trials again and again.
    """
    if not path.exists():
        return {}
    lines = enumerate(path.read_bytes().split(b"\n")[:-1], start=1)
    evaluated = _parsed(path, [(number, line) for number, line in lines if b'"test_' in line])
    return {metric.step: loss for metric in evaluated if (loss := metric.shared_loss) is not None}


def keep_metrics_until(path: Path, step: int) -> None:
    """Drop the lines after `step`: a resumed trial writes them again."""
    kept: Iterable[Metric] = (metric for metric in read_metrics(path) if metric.step <= step)
    lines = (to_json(metric.model_dump(mode="json", exclude_none=True)) + "\n" for metric in kept)
    write_bytes(path, "".join(lines).encode())


def append_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Append objects, one a line, in a single write."""
    text = "".join(to_json(line, ensure_ascii=False) + "\n" for line in lines)
    if text:
        with appending(path) as file:
            file.write(text.encode("utf-8", errors="replace"))


def keep_lines_until(path: Path, step: int) -> None:
    """Drop the lines after `step`, and one torn by a kill: a trial that goes on writes them again."""
    if path.exists():
        whole = path.read_bytes().split(b"\n")[:-1]
        kept = [line for line in whole if json.loads(line)["step"] <= step]
        write_bytes(path, b"".join(line + b"\n" for line in kept))
