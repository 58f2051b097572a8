"""The figures of reinforcement learning, for a compare, one training or the study `rl`: all draw arms.

An arm is one method at its best learning rate. Rewards are drawn as they are, so better is up.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import altair as alt

from lowregret.analysis.bits import BITS_PER_PARAMETER
from lowregret.quantities import count
from lowregret.report.charts import words
from lowregret.report.charts.curves import smoothed, smoothing_window
from lowregret.report.charts.drawing import Figure
from lowregret.report.charts.plots import STEPS, Axis, Reference, Series, curves
from lowregret.report.charts.ranks import shade
from lowregret.runs.records import RewardMetric
from lowregret.spec import LoRA

REWARD = Axis("held-out reward (mean over problems)")


@dataclass(frozen=True)
class Seed:
    """One trial."""

    reward: Mapping[int, float]
    """Step → mean held-out reward; step 0 is before training."""
    samples: Mapping[int, RewardMetric]
    """Step → what was recorded of its samples."""
    parameters: int
    """Trainable ones."""


@dataclass(frozen=True)
class Arm:
    """A method at its best learning rate."""

    name: str
    shade: float | None
    """On the ramp of ranks; None for FullFT."""
    seeds: tuple[Seed, ...]


@dataclass(frozen=True)
class Sweep:
    """A method over the learning rates of its search."""

    name: str
    shade: float | None
    points: tuple[tuple[float, float], ...]
    """(learning rate, held-out reward), ascending in the rate."""
    best: float | None


def reward_curves(arms: Sequence[Arm], base: float | None) -> alt.LayerChart:
    """Held-out reward against steps: the mean over seeds, and each seed faint."""
    series = []
    for arm in arms:
        if len(arm.seeds) > 1:
            series += [Series("", _points(seed.reward), arm.shade, faint=True) for seed in arm.seeds]
        points = _points(_over_seeds(seed.reward for seed in arm.seeds))
        series.append(Series(arm.name, points, arm.shade, dashed=arm.shade is None, dots=True))
    return curves(series, STEPS, REWARD, "Held-out reward against optimizer steps", references=_start(base))


def _start(base: float | None) -> list[Reference]:
    return [] if base is None else [Reference(base, f"before training: {words.nats(base)}", under=True)]


def reward_rates(sweeps: Sequence[Sweep], base: float | None) -> alt.LayerChart:
    """Held-out reward against learning rate: the U of a loss turned upside down."""
    series = [Series(s.name, s.points, s.shade, dashed=s.shade is None, dots=True) for s in sweeps]
    rings = [
        (rate, reward, f"{s.name}: best at {words.rate(rate)}")
        for s in sweeps
        for rate, reward in s.points
        if rate == s.best
    ]
    return curves(
        series,
        Axis("learning rate", log=True, format="~e"),
        REWARD,
        "Held-out reward against learning rate",
        references=_start(base),
        marks=rings,
    )


def sampled(arms: Sequence[Arm], y: Axis, value: Callable[[RewardMetric], float], description: str) -> alt.LayerChart:
    """What was recorded of each step's samples, mean over seeds, smoothed."""
    series = []
    for arm in arms:
        means = _over_seeds({step: value(m) for step, m in seed.samples.items()} for seed in arm.seeds)
        points = smoothed(tuple(sorted(means.items())), smoothing_window(len(means)))
        series.append(Series(arm.name, [(float(s), v) for s, v in points], arm.shade, dashed=arm.shade is None))
    return curves(series, STEPS, y, description, height=260)


def sample_figures(arms: Sequence[Arm]) -> list[Figure]:
    """Length, entropy, pass rate and dropped groups of the training samples."""
    steps = max((len(seed.samples) for arm in arms for seed in arm.seeds), default=0)
    window = smoothing_window(steps)
    several = any(len(arm.seeds) > 1 for arm in arms)
    how = (
        "Of the samples of each step"
        + (", mean over seeds" if several else "")
        + (f", a moving average over {window} steps. " if window > 1 else ". ")
    )
    share = Axis("share of samples", format="~%")
    cut = max((m.truncated for arm in arms for seed in arm.seeds for m in seed.samples.values()), default=0.0)
    cuts = f" At most {words.share(cut)} of a step's samples were cut at the longest length allowed." if cut else ""
    return [
        Figure(
            "length",
            "Response length",
            sampled(arms, Axis("tokens of a completion"), lambda m: m.length, "Response length against steps"),
            f"{how}Answers that grow or shrink show a policy that changes how it answers, not only what.{cuts}",
        ),
        Figure(
            "entropy",
            "Entropy of the policy",
            sampled(arms, Axis("entropy (nats a token)"), lambda m: m.entropy, "Entropy of the policy against steps"),
            f"{how}Minus the log-probability of the sampled tokens. It falls as the policy grows sure; at zero nothing "
            "is explored any more.",
        ),
        Figure(
            "pass-rate",
            "Pass rate",
            sampled(arms, share, lambda m: m.pass_rate, "Share of training samples that pass, against steps"),
            f"{how}The share of training samples with a reward of 1 or more, before the step's update.",
        ),
        Figure(
            "dropped",
            "Groups that teach nothing",
            sampled(
                arms,
                Axis("share of groups dropped", format="~%"),
                lambda m: m.dropped_groups / m.groups if m.groups else 0.0,
                "Share of groups dropped against steps",
            ),
            f"{how}Groups of equal rewards have no advantage and are left out; where all pass, the share nears 100 %.",
        ),
    ]


def bits_figure(arms: Sequence[Arm]) -> Figure:
    """Bits that the samples of a run could teach against what the trained weights can store."""
    points: list[Series] = []
    said: list[str] = []
    capacities: list[float] = []
    for arm in arms:
        totals = [sum(m.bits for m in seed.samples.values()) for seed in arm.seeds if seed.samples]
        if not totals or not (total := statistics.fmean(totals)):
            continue
        capacity = BITS_PER_PARAMETER * arm.seeds[0].parameters
        capacities.append(capacity)
        points.append(Series(arm.name, [(capacity, total)], arm.shade, dots=True))
        said.append(f"{arm.name}: {count(total)} of {count(capacity)} bits ({words.share(total / capacity)})")
    lines: list[Series] = []
    if capacities:
        low, high = min(capacities), max(capacities)
        lines = [Series("as many as fit", [(low / 2, low / 2), (2 * high, 2 * high)], None, dashed=True)]
    chart = curves(
        [*points, *lines],
        Axis("capacity of the trained weights (bits)", log=True, format="~s"),
        Axis("bits learned at most", log=True, format="~s"),
        "Bits that rewards could teach against the capacity of the trained weights",
    )
    caption = (
        "Across: what the trained weights can store, "
        f"{BITS_PER_PARAMETER:g} bits a parameter. Up: the entropy of each group's rewards, summed over all samples of "
        f"a run, a bound on what rewards can teach. {'; '.join(said) or 'Nothing was sampled'}. Points far under the "
        "dashed line leave most of their capacity unused, which is why low ranks can suffice."
    )
    return Figure("bits", "Bits learned against capacity", chart, caption)


def _over_seeds(runs: Iterable[Mapping[int, float]]) -> dict[int, float]:
    by_step: dict[int, list[float]] = {}
    for run in runs:
        for step, value in run.items():
            by_step.setdefault(step, []).append(value)
    return {step: statistics.fmean(values) for step, values in sorted(by_step.items())}


def _points(run: Mapping[int, float]) -> list[tuple[float, float]]:
    return [(float(step), value) for step, value in sorted(run.items())]


def final_reward(arm: Arm) -> float:
    """At the last evaluation, mean over seeds."""
    return list(_over_seeds(seed.reward for seed in arm.seeds).values())[-1]


def lora_shade(rank: int, ranks: Sequence[int]) -> float | None:
    """A rank's place on the ramp among others."""
    loras = [LoRA(rank=other) for other in ranks]
    return shade(LoRA(rank=rank), loras)
