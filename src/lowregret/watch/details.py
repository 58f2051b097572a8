"""All that there is of one trial: its record, its curve in full width, and what its samples say."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lowregret.errors import RecordsError
from lowregret.foreign_text import shown
from lowregret.runs.boundary import open_regular
from lowregret.runs.files import FAILURES, METRICS, TRANSCRIPTS
from lowregret.runs.metrics import read_line
from lowregret.runs.records import Metric
from lowregret.watch.curve import rounded
from lowregret.watch.trials import Followed, clean

_MOST_POINTS = 600
_MOST_BYTES = 64_000_000
"""Of a curve that is read in full; of a longer one the end is."""
_MOST_SAMPLES_BYTES = 1_000_000
_SAMPLES = 12
"""Of an evaluation, the first: those of two are of the same problems."""
_LONGEST = 4000
"""Characters of a prompt or a completion."""


def details(one: Followed) -> dict[str, Any]:
    """Plain values for a page."""
    record = one.record
    assert record is not None
    curve = list(_metrics(_end_of(one.home / METRICS, _MOST_BYTES)))
    stride = -(-len(curve) // _MOST_POINTS) or 1
    kept = [m for n, m in enumerate(curve) if n % stride == 0 or m.test_loss is not None or n == len(curve) - 1]
    samples, failures = _samples(one.home / TRANSCRIPTS), _end_of(one.home / FAILURES, _MOST_SAMPLES_BYTES)
    return {
        "id": one.id,
        "facts": {
            "method": shown(record.method),
            "learning rate": record.learning_rate,
            "seed": record.seed,
            "status": record.status,
            "trained parameters": record.trainable_parameters,
            "peak memory": record.peak_memory_bytes or None,
            "tokens": record.tokens or (curve[-1].tokens if curve else 0),
            "seconds": rounded(one.seconds),
            "most in a pack": record.pack_size if record.pack_size > 1 else None,
            "forward path": clean(record.forward_path),
            "stopped beside": clean(record.pruned_by),
            "note": clean(record.note),
            "error": clean(record.error),
        },
        "columns": list(_COLUMNS),
        "curve": [_point(metric) for metric in kept],
        "samples": samples,
        "failures": len(failures),
    }


_COLUMNS = ("step", "train", "held", "lr", "grad_norm", "reward", "length", "entropy", "kl")


def _metrics(lines: Sequence[bytes]) -> Iterator[Metric]:
    """Those that can be read."""
    for line in lines:
        with suppress(ValidationError):
            yield Metric.model_validate_json(line)


def _point(metric: Metric) -> list[float | None]:
    samples = metric.rl
    held = metric.test_nll if metric.test_reward is None else metric.test_reward
    rewards = (None,) * 4 if samples is None else (samples.reward, samples.length, samples.entropy, samples.kl)
    values = (metric.train_nll, held, metric.lr, metric.grad_norm, *rewards)
    return [metric.step, *(None if value is None else rounded(value) for value in values)]


def _samples(path: Path) -> list[dict[str, Any]]:
    """What was said at the last evaluation, and by the same problems at the one before it that is still at hand."""
    rows = []
    for number, line in enumerate(_end_of(path, _MOST_SAMPLES_BYTES), start=1):
        with suppress(RecordsError):
            rows.append(read_line(line, path, number))
    of_step: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        of_step[row["step"]].append(row)
    whole = max(map(len, of_step.values()), default=0)  # the first may be cut, and the last be under way
    steps = sorted(step for step, own in of_step.items() if len(own) == whole)
    ends = dict.fromkeys([*steps[:1], *steps[-1:]])
    return [
        {
            "step": row["step"],
            "prompt": shown(str(row.get("prompt", "")))[:_LONGEST],
            "completion": shown(str(row.get("completion", "")))[:_LONGEST],
            "reward": row.get("reward") if isinstance(row.get("reward"), int | float) else None,
        }
        for step in ends
        for row in of_step[step][:_SAMPLES]
    ]


def _end_of(path: Path, most: int) -> Sequence[bytes]:
    """The whole lines in the last so many bytes of a file; none where there is no file of its own."""
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - most)
            file.seek(start)
            lines = file.read(most).split(b"\n")[:-1]
    except (OSError, RecordsError):
        return ()
    return lines[1:] if start else lines
