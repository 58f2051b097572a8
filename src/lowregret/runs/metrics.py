"""The files of a trial that grow: metrics.jsonl, and the transcripts and failures of reinforcement learning."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lowregret.errors import RecordsError
from lowregret.foreign import parse_json, read_bytes
from lowregret.runs.atomic import appending, write_bytes
from lowregret.runs.records import Metric
from lowregret.strict_json import to_json

DELETE = "Delete the trial's folder."


def append_metric(path: Path, metric: Metric) -> None:
    """Append one line to metrics.jsonl in a single write."""
    with appending(path) as file:
        line = metric.model_dump(mode="json", exclude_none=True)
        file.write((to_json(line) + "\n").encode())


def read_metrics(path: Path) -> list[Metric]:
    """All complete lines of metrics.jsonl, by rising step; a last line torn by a kill is left out.

    RecordsError names a damaged line, and one that is not of a later step than the line before. That none is missing is
    for `require_curve` to see.
    """
    return _parsed(path, _lines(path))


def _lines(path: Path) -> list[tuple[int, bytes]]:
    """Number and content of the complete lines. Zeros at the end are what a power cut leaves of lines that had not
    reached the disk: they are no lines."""
    if not path.exists():
        return []
    return list(enumerate(read_bytes(path, RecordsError, _REMEDY).rstrip(b"\0").split(b"\n")[:-1], start=1))


_METRICS = TypeAdapter(list[Metric])


def _parsed(path: Path, lines: Sequence[tuple[int, bytes]]) -> list[Metric]:
    """Lines with their numbers, at once where all are good."""
    found: list[Metric] = []
    with suppress(ValidationError):
        found = _METRICS.validate_json(b"[" + b",".join(line for _, line in lines) + b"]")
    if len(found) != len(lines):
        found = [_one(path, number, line) for number, line in lines]
    for (number, _), before, metric in zip(lines[1:], found, found[1:], strict=False):
        if metric.step <= before.step:
            raise RecordsError(f"{path}:{number}: step {metric.step} after step {before.step}. {_REMEDY}")
    return found


def _one(path: Path, number: int, line: bytes) -> Metric:
    try:
        return Metric.model_validate_json(line)
    except ValidationError as error:
        raise RecordsError(f"{path}:{number}: damaged ({error.errors()[0]['msg']}). {_REMEDY}") from error


def _require_all(path: Path, found: Sequence[Metric], steps: int, whose: str) -> None:
    """RecordsError when these are not the lines of steps 1 to `steps`, one each; one of step 0 may come first."""
    own = [metric.step for metric in found if metric.step]
    if own != list(range(1, steps + 1)):
        missing = sorted({*range(1, steps + 1)} - {*own})
        wrong = f"lacks the line of step {missing[0]}" if missing else f"goes on to step {own[-1]}"
        raise RecordsError(f"{path}: {wrong}, and {whose} {steps}. {_REMEDY}")


_REMEDY = "Bring the file back as it was, or start the trial again: delete its folder."


def require_curve(path: Path, steps: int) -> list[Metric]:
    """The lines of a trial that has taken so many steps; RecordsError when some are missing."""
    found = read_metrics(path)
    _require_all(path, found, steps, "the trial has taken")
    return found


def held_out_curve(path: Path) -> dict[int, float]:
    """Step → held-out loss, of the steps that were evaluated.

    It is the `Metric.shared_loss`: on the examples that all trials of the folder share, so that curves compare. Only
    their lines are parsed: a search asks for the curves of all trials again and again.
    """
    evaluated = _parsed(path, [(number, line) for number, line in _lines(path) if b'"test_' in line])
    return {metric.step: loss for metric in evaluated if (loss := metric.shared_loss) is not None}


def keep_metrics_until(path: Path, step: int) -> list[Metric]:
    """Drop the lines after `step`, whatever they hold: a resumed trial writes them again. Returns those before.

    RecordsError when there are not all of those before: a curve with a hole would be no curve of this trial.
    """
    lines = _lines(path) if step > 0 else []
    before = 1 if lines and _one(path, *lines[0]).step == 0 else 0
    kept = _parsed(path, lines[: step + before])
    if step > 0:
        _require_all(path, kept, step, "the checkpoint is of step")
    text = (to_json(metric.model_dump(mode="json", exclude_none=True)) + "\n" for metric in kept)
    write_bytes(path, "".join(text).encode())
    return kept


def append_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Append objects, one a line, in a single write."""
    text = "".join(to_json(line, ensure_ascii=False) + "\n" for line in lines)
    if text:
        with appending(path) as file:
            file.write(text.encode("utf-8", errors="replace"))


def keep_lines_until(path: Path, step: int) -> None:
    """Drop the lines after `step`, which are written again, and damaged ones: no result hangs on them."""
    if not path.exists():
        return
    lines = enumerate(read_bytes(path, RecordsError, DELETE).split(b"\n")[:-1], start=1)
    write_bytes(path, b"".join(line + b"\n" for number, line in lines if _step_of(line, path, number) <= step))


def _step_of(line: bytes, path: Path, number: int) -> float:
    """Infinite for a line that does not say it."""
    try:
        return int(read_line(line, path, number)["step"])
    except RecordsError:
        return math.inf


def read_line(line: bytes, path: Path, number: int) -> dict[str, Any]:
    """A line of such a file, which is of a `step`; RecordsError when it is damaged."""
    row = parse_json(line, f"{path}:{number}", RecordsError, DELETE)
    step = row.get("step") if isinstance(row, dict) else None
    if isinstance(step, bool) or not isinstance(step, int):
        raise RecordsError(f"{path}:{number}: damaged: it is of no step. Delete the trial's folder.")
    return dict(row)
