"""The figures about training by reward."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from lowregret.analysis.bits import BITS_PER_PARAMETER
from lowregret.analysis.condition import Trial
from lowregret.analysis.envelope import plain_loras
from lowregret.analysis.fits import mean
from lowregret.analysis.place import Place, middle_place
from lowregret.questions.claim import Evidence
from lowregret.questions.rl.claims import good_ranges
from lowregret.questions.rl.spec import RLQuestion
from lowregret.report.charts import words
from lowregret.report.charts.drawing import Figure
from lowregret.report.charts.plots import Axis, Reference, Series, curves
from lowregret.report.charts.ranks import named, shade
from lowregret.report.charts.rewards import (
    Arm,
    Seed,
    Sweep,
    bits_figure,
    final_reward,
    reward_curves,
    reward_rates,
    sample_figures,
)
from lowregret.spec import RL


def figures(evidence: Evidence[RLQuestion]) -> list[Figure]:
    condition, question = evidence.conditions["main"], evidence.question
    loras = plain_loras(condition)
    arms, sweeps, wide = [], [], []
    for method in condition.methods:
        name, place, best = named(method), shade(method, loras), condition.best(method.name)
        arms.append(Arm(name, place, tuple(_seed(trial) for trial in condition.at_best(method.name))))
        by_rate: dict[float, list[float]] = {}
        for trial in condition.of(method.name):
            if trial.record.test_reward is not None and trial.record.status == "finished":
                by_rate.setdefault(trial.record.learning_rate, []).append(trial.record.test_reward)
        points = tuple((rate, statistics.fmean(found)) for rate, found in sorted(by_rate.items()))
        sweeps.append(Sweep(name, place, points, None if best is None else best.learning_rate))
        ranges = good_ranges(condition, method.name, question.good)
        if ranges:
            wide.append(f"{name} {_wide(middle_place([found.width for found in ranges.values()]))}")
    base = -condition.base_nll
    ends = [f"{arm.name} {words.nats(final_reward(arm))}" for arm in arms if arm.seeds]
    return [
        Figure(
            "rl-reward",
            "Reward against steps",
            reward_curves(arms, base),
            f"Each method at its best learning rate; bold the mean over seeds, faint each seed. It ends with "
            f"{', '.join(ends)}. The post has all ranks down to 1 reach full fine-tuning (dashed).",
        ),
        Figure(
            "rl-rates",
            "Reward against learning rate",
            reward_rates(sweeps, base),
            "A point is the mean over the seeds that ran, a ring the best rate. How far apart the lowest and the "
            f"highest rate are that gain {words.share(question.good)} of the best: {'; '.join(wide) or 'not known'}. "
            "The post has LoRA's plateau wider.",
        ),
        _episode_bits(arms, condition.spec.objective, condition.spec.batch_size),
        bits_figure(arms),
        *sample_figures(arms),
    ]


def _wide(width: Place) -> str:
    """A range's width, and how far the rates tried leave it open."""
    return f"{2**width.at:.2g}×" + (f" (to a factor of {2**width.give:.2g})" if width.give else "")


def _seed(trial: Trial) -> Seed:
    return Seed({step: -loss for step, loss in trial.test.items()}, trial.samples, trial.record.trainable_parameters)


def _episode_bits(arms: Sequence[Arm], objective: object, problems: int) -> Figure:
    """Bits of a sample, mean over a run, against capacity."""
    assert isinstance(objective, RL)
    episodes = problems * objective.group_size
    lora, full = list[tuple[float, float]](), list[tuple[float, float]]()
    bars: list[tuple[float, float, float]] = []
    for arm in arms:
        found = mean(
            [sum(m.bits for m in s.samples.values()) / (len(s.samples) * episodes) for s in arm.seeds if s.samples]
        )
        if found is None:
            continue
        capacity = BITS_PER_PARAMETER * arm.seeds[0].parameters
        (full if arm.shade is None else lora).append((capacity, found.value))
        if arm.shade is not None and found.low is not None and found.high is not None:
            bars.append((capacity, found.low, found.high))
    chart = curves(
        [Series("LoRA", lora, 0.8, bars, dots=True), Series("FullFT", full, None, dots=True)],
        Axis("capacity of the trained weights (bits)", log=True, format="~s"),
        Axis("bits an episode at most", low=0.0),
        "Bits an episode against the capacity of the trained weights",
        references=[Reference(1.0, "1 bit: half of a group passes")],
    )
    caption = (
        "The entropy of a group's rewards, mean over all samples of a run at the best rate, with its 95 % interval "
        f"over seeds. Across: {BITS_PER_PARAMETER:g} bits a parameter. A reward of 0 or 1 teaches at most one bit an "
        "episode, whatever the rank: a level line far to the right of what a run needs."
    )
    return Figure("rl-episode-bits", "Bits an episode against capacity", chart, caption)
