"""Raw numbers of a run, kept figure by figure, so that a stopped run goes on where it was."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowregret.strict_json import to_json


class Results:
    """{figure: {"key": what it was measured with, "raw": …}} in one JSON file."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self.path = path
        self._figures: dict[str, dict[str, Any]] = {}
        if path.exists() and not fresh:
            try:
                self._figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path}: is damaged. Remove it, or start over with --fresh.") from None

    def find(self, figure: str, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was measured under the same key: commit, versions, machine and settings."""
        found = self._figures.get(figure)
        return found["raw"] if found and found["key"] == dict(key) else None

    def keep(self, figure: str, key: Mapping[str, Any], raw: Mapping[str, Any]) -> None:
        """Write a figure's numbers, atomically, in place of older ones."""
        self._figures[figure] = {"key": dict(key), "raw": dict(raw)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text(to_json({"figures": self._figures}, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, self.path)

    def all(self) -> dict[str, dict[str, Any]]:
        """Every figure, newer or older."""
        return dict(self._figures)


def timed(contender: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A contender's measurements without the warm-up."""
    return list(contender["answers"][contender["warmup"] :])


def median(contender: Mapping[str, Any], field: str = "seconds") -> float:
    """The median of a field over the timed repeats."""
    return statistics.median(float(answer[field]) for answer in timed(contender))


def median_rate(contender: Mapping[str, Any], field: str) -> float:
    """The median of a field per second."""
    return statistics.median(float(answer[field]) / float(answer["seconds"]) for answer in timed(contender))


def losses(contender: Mapping[str, Any]) -> list[float]:
    """The loss of every request, warm-up included: of each trial where there are many."""
    return [loss for answer in contender["answers"] for loss in answer.get("losses", {"": answer["loss"]}).values()]


def peak(contender: Mapping[str, Any]) -> int:
    """The highest peak, bytes."""
    return max(int(answer["peak_bytes"]) for answer in contender["answers"])


def apart(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest difference between two lists of losses; infinite when they are not of one length, or not finite."""
    if len(one) != len(other) or not all(map(math.isfinite, (*one, *other))):
        return math.inf
    return max((abs(a - b) for a, b in zip(one, other, strict=True)), default=0.0)
