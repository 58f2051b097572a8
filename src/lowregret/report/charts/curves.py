"""A method's loss over the steps at its best learning rate: mean over seeds, training loss smoothed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lowregret.report.reading import StudyRecords

Points = tuple[tuple[int, float], ...]
POINTS = 400
"""Most points drawn of one curve; more would weigh on the page and not be seen."""


@dataclass(frozen=True)
class Curve:
    """(step, nats per supervised token), ascending in step."""

    train: Points
    test: Points
    window: int
    """Width of the moving average of `train`, in recorded steps."""


def curve(study: StudyRecords, name: str) -> Curve:
    """The mean curve of a method's finished trials at its best learning rate; empty when there are none.

    Held-out loss starts at step 0 with that of the base, which all methods share. The mean at a step is over the seeds
    that recorded it; evaluations and records are at the same steps in all seeds.
    """
    runs = [study.metrics.get(trial.id, ()) for trial in study.trials_at_best(name)]
    train = _mean((m.step, m.train_nll) for run in runs for m in run)
    test = _mean((m.step, m.test_nll) for run in runs for m in run)
    base = study.verdict.base_nll
    if test and test[0][0] > 0 and base is not None:
        test = ((0, base), *test)
    window = smoothing_window(len(train))
    return Curve(train=thinned(smoothed(train, window)), test=test, window=window)


def smoothing_window(steps: int) -> int:
    """An odd number of steps, about a twentieth of the run."""
    return 2 * (steps // 40) + 1


def smoothed(points: Points, window: int) -> Points:
    """A centred moving average, narrowed symmetrically towards both ends so that a straight line stays as it is."""
    half = window // 2
    values = [value for _, value in points]
    result = []
    for index, (step, _) in enumerate(points):
        reach = min(half, index, len(values) - 1 - index)
        near = values[index - reach : index + reach + 1]
        result.append((step, sum(near) / len(near)))
    return tuple(result)


def _mean(pairs: Iterable[tuple[int, float | None]]) -> Points:
    by_step: dict[int, list[float]] = defaultdict(list)
    for step, value in pairs:
        if value is not None:
            by_step[step].append(value)
    return tuple((step, sum(values) / len(values)) for step, values in sorted(by_step.items()))


def thinned(points: Sequence[tuple[int, float]]) -> Points:
    """Every n-th point, so that `POINTS` are left at most, and the last one."""
    stride = -(-len(points) // POINTS)
    if stride <= 1:
        return tuple(points)
    kept = list(points[::stride])
    return tuple(kept if kept[-1] == points[-1] else [*kept, points[-1]])
