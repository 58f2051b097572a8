"""The figures of one training by example: its losses and its gradients over the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lowregret.report.charts.curves import smoothed, smoothing_window, thinned
from lowregret.report.charts.drawing import Figure
from lowregret.report.charts.plots import STEPS, Axis, Series, curves
from lowregret.runs.records import Metric


def loss_figure(metrics: Sequence[Metric], shade: float | None) -> Figure:
    """Training loss, smoothed, and held-out loss. `shade` as in `Series`."""
    train, averaged = _smooth(metrics, lambda metric: metric.train_nll)
    held_out = [(float(metric.step), metric.test_nll) for metric in metrics if metric.test_nll is not None]
    series = [
        Series("training", train, shade, faint=True),
        Series("held out", held_out, shade, dots=True),
    ]
    y = Axis("loss (nats per supervised token)", low=0.0)
    return Figure(
        "steps",
        "Loss against steps",
        curves(series, STEPS, y, "Training and held-out loss against optimizer steps"),
        f"Faint: the loss of each step's own rows before its update{averaged}. Points: all held-out examples.",
    )


def gradient_figure(metrics: Sequence[Metric], shade: float | None) -> Figure:
    """Norm of the gradients before clipping: where it leaps, a rate is too high or a row is odd."""
    norms, averaged = _smooth(metrics, lambda metric: metric.grad_norm)
    series = [Series("gradients", norms, shade)]
    return Figure(
        "gradients",
        "Gradients",
        curves(series, STEPS, Axis("gradient norm", low=0.0), "Gradient norm against optimizer steps", height=260),
        f"Their norm over all that is trained, before clipping{averaged}.",
    )


def _smooth(
    metrics: Sequence[Metric], value: Callable[[Metric], float | None]
) -> tuple[list[tuple[float, float]], str]:
    """What was recorded of the steps, and how it was smoothed, for a caption."""
    points = tuple((metric.step, found) for metric in metrics if (found := value(metric)) is not None)
    window = smoothing_window(len(points))
    averaged = f", a moving average over {window} steps" if window > 1 else ""
    return [(float(step), mean) for step, mean in thinned(smoothed(points, window))], averaged
