"""How the interval of the regret narrows as trials end: the verdict on those that had ended by then, one after another.

It is the verdict's own arithmetic (`analysis.regret.judge`) on ever more of the same records; the last one is what the
folder's verdict will be, or is. Trials are taken in the order in which their records were last written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from lowregret.analysis.comparison import Examples, measure
from lowregret.analysis.regret import judge
from lowregret.errors import RecordsError
from lowregret.runs.files import EXAMPLES
from lowregret.runs.records import TrialRecord
from lowregret.runs.study import read_examples, start_loss
from lowregret.runs.verdict import Verdict
from lowregret.spec import CompareSpec
from lowregret.watch.curve import rounded
from lowregret.watch.trials import Followed

_MOST, _LEAST, _RECORDS = 60, 6, 10_000
"""Points: of more trials the verdict is asked after every n-th, and after the last; of thousands at a few places, so
that no more than so many records are judged in all."""
_Key = tuple[tuple[str, str, float | None], ...]


@final
class History:
    """Of one comparison."""

    def __init__(self, folder: Path, spec: CompareSpec) -> None:
        self._folder, self._spec = folder, spec
        self._known: dict[_Key, dict[str, Any]] = {}
        self._examples: dict[str, tuple[Any, Examples]] = {}
        self._asked: _Key | None = None
        self._points: list[dict[str, Any]] = []

    def points(self, followed: Sequence[Followed]) -> list[dict[str, Any]]:
        """{"trials", "method", "seeds", "regret", "low", "high", "tolerance", "verdict"} after so many ended trials, in
        nats or reward; `method` is the LoRA that the regret is of. What is not known is left out."""
        ended = sorted(
            (one for one in followed if one.record is not None and not one.running), key=lambda one: one.stamp or (0,)
        )
        key: _Key = tuple((one.id, str(one.record and one.record.status), one.loss) for one in ended)
        if key == self._asked:
            return self._points
        points = max(_LEAST, min(_MOST, _RECORDS // max(len(ended), 1)))
        stride = -(-len(ended) // points) or 1
        counts = sorted({*range(len(ended), 0, -stride)})
        self._known = {key[:count]: self._at(ended[:count], key[:count]) for count in counts}
        self._asked, self._points = key, [point for point in self._known.values() if "regret" in point]
        return self._points

    def _at(self, ended: Sequence[Followed], key: _Key) -> dict[str, Any]:
        if key in self._known:
            return self._known[key]
        records = [one.record for one in ended if one.record is not None]
        with suppress(RecordsError, OSError, ValueError):
            found = judge(self._spec, records, self._losses(ended, records), start_loss(self._folder), {})
            return _plain(found, len(ended))
        return {}

    def _losses(self, ended: Sequence[Followed], records: Sequence[TrialRecord]) -> Mapping[str, Examples]:
        """Of the trials at the best rates, which alone are asked for."""
        sides = [measure(method, records) for method in self._spec.methods]
        wanted = {record.id for side in sides for record in side.finished.values()}
        found = {}
        for one in ended:
            if one.id not in wanted:
                continue
            if one.id not in self._examples or self._examples[one.id][0] != one.stamp:
                self._examples[one.id] = one.stamp, read_examples(one.home / EXAMPLES)
            found[one.id] = self._examples[one.id][1]
        return found


def _plain(found: Verdict, trials: int) -> dict[str, Any]:
    low, high = found.ci95 or (None, None)
    point = {"regret": found.regret, "low": low, "high": high, "tolerance": found.tolerance, "learned": found.learned}
    shown = {name: rounded(value) for name, value in point.items() if value is not None}
    seeds = 0 if found.interval is None else found.interval.seeds
    if "regret" not in shown or found.lora is None:
        return {}
    return {"trials": trials, "method": found.lora.name, "verdict": found.verdict, "seeds": seeds, **shown}
