"""The shape of `verdict.json` (docs/guides/verdict.md has the rules)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from lowregret.notebook_card import card, number
from lowregret.runs.decision import Decision
from lowregret.runs.record import Record

Ruling = Literal["low_regret", "regret", "inconclusive"]


Trend = Literal["closes", "widens", "unclear"]


class Lag(Record):
    """The regret in steps, and how it changes towards the end (`analysis.lag`)."""

    factor: float | None = None
    """LoRA needs so many times FullFT's steps for the same loss; below 1 when it needs fewer. None where the curves do
    not say."""
    low: float | None = None
    """Of its 95 % interval; None where it has no bound."""
    high: float | None = None
    extrapolated: bool = False
    """LoRA ends behind: the factor is measured at LoRA's final loss, and carried over to FullFT's."""
    seconds: float | None = None
    """Time of a LoRA run that much longer over that of FullFT's run; on one machine the prices' ratio, too."""
    multiply_adds: float | None = None
    """The same of multiply-adds."""
    dollars: tuple[float, float] | None = None
    """Of that LoRA run, and of FullFT's, where the machine's price is known."""
    since: int | None = None
    """The evaluation nearest to half of the steps: the changes below are from there to the end."""
    gap_change: float | None = None
    """Of LoRA's loss minus FullFT's, mean over seeds, in nats or reward; below zero when it closes."""
    gap_change_ci95: tuple[float, float] | None = None
    trend: Trend | None = None
    """Whether that interval lies on one side of zero."""
    still_learned: float | None = None
    """Share of all that FullFT learned which it learned since then."""
    note: str = ""
    """Why there is no factor, or what to know about it."""


class MethodResult(Record):
    """What a study found about one method."""

    name: str
    best_learning_rate: float | None
    bracketed: bool
    """True only when worse losses lie on both sides of the best learning rate."""
    test_nll: float | None
    """Mean over seeds at the best learning rate, nats per supervised token; None with reinforcement learning."""
    test_reward: float | None = None
    """With reinforcement learning: mean held-out reward, over seeds, at the best learning rate."""
    seeds: int
    """Finished trials at the best learning rate."""
    trials: int
    """All trials of this method, failed and diverged ones included."""
    tokens: int
    """Training tokens of one trial at the best learning rate."""
    seconds: float
    """Wall time of one trial at the best learning rate, median over seeds; of packed trials, the share of it."""
    alone_seconds: float | None = None
    """The same as if each had been trained alone: an estimate where trials were packed. Methods are compared by it."""
    peak_memory_bytes: int
    trainable_parameters: int
    base_nll: float | None = None
    """Held-out loss of the base that it started from, where that is a quantised one; nats per supervised token."""
    checkpoint_bytes: int = 0
    pack_size: int = 1
    """The most trials in training at once with one of those at the best learning rate: more than 1 makes `seconds` a
    share, `alone_seconds` an estimate and `peak_memory_bytes` the whole pack's."""
    regret_nats: float | None = None
    """Against FullFT, the plain one if it was tried, else the first. None for that one."""
    regret_learned: float | None = None
    """The same as a share of what FullFT learned; None when that is nothing, or unknown."""
    regret_reward: float | None = None
    """With reinforcement learning: the reward of FullFT minus this one's."""
    lag: Lag | None = None
    """The same in steps."""
    ci95: tuple[float, float] | None = None
    """Of the regret, in its unit."""
    ruling: Ruling | None = None
    """What its own interval says. The verdict's is that of the best LoRA, less what the choice flatters."""
    depth: float | None = None
    """By how much the loss at the best learning rate tried lies above the bottom of the parabola through it and its
    neighbours: the regret is between the bottoms. None without neighbours on both sides."""

    @property
    def test_loss(self) -> float | None:
        """`test_nll`, or minus `test_reward`."""
        return self.test_nll if self.test_reward is None else -self.test_reward

    @property
    def regret(self) -> float | None:
        """In nats, or in reward."""
        return self.regret_nats if self.regret_reward is None else self.regret_reward


class IntervalParts(Record):
    """What the verdict's interval is made of, in the regret's unit or its square.

    docs/guides/verdict.md recomputes one by hand.
    """

    example_variance: float
    """Squared standard error from the choice of held-out examples."""
    seed_variance: float
    """From the seeds."""
    rate_variance: float
    """From reading the bottom between the learning rates tried."""
    degrees_of_freedom: float | None
    """Of the t quantile that the square root of their sum is multiplied with. None where they have no end and it is the
    normal quantile: no part of the sum was estimated from examples or seeds."""
    examples: int
    seeds: int
    """With results of both methods."""
    depth: float
    """Of LoRA minus of FullFT: taken off the difference of the losses at the best rates tried."""
    selection: float
    """By how much the best of several LoRAs is flattered by being chosen, zero or below: taken off as well."""


class Recommendation(Record):
    """What to train with."""

    method: str
    rank: int | None
    learning_rate: float
    batch_size: int
    targets: tuple[str, ...] | None
    alternative: str | None = None
    """What else would do, and what it would cost, where the lag tells."""


class Gains(Record):
    """What training together and stopping early have saved, each by itself."""

    packed_trials: int
    """Trials that were trained in passes with others."""
    largest_pack: int
    shared_seconds: float
    """Time of the training steps in passes that several trials shared."""
    shared_seconds_alone: float
    """What the same steps would have taken one trial after the other, by each one's second step, which ran alone."""
    packing_gain: float | None
    """shared_seconds_alone / shared_seconds; None when nothing was shared."""
    steps: int
    """Optimizer steps taken by all trials."""
    steps_left_out: int
    """Steps that pruned and diverged trials did not take any more."""
    seconds_left_out: float
    """Their time, at the pace of the steps that the same trials did take."""


class SettlingOption(Record):
    """More of something that would settle a verdict, in the same folder."""

    seeds: int | None = None
    """In all, for --seeds; None when they stay as many."""
    examples: int | None = None
    """Held-out examples in all, for --max-eval; None when they stay as many."""
    seconds: float | None = None
    """What it takes at the pace of the trials that there are; None when that is not known."""


class Settling(Record):
    """What would settle an open verdict if the regret stayed where it is."""

    options: tuple[SettlingOption, ...]
    """Any one of them; none when nothing affordable would."""
    examples_beyond: int | None = None
    """Held-out examples that would, but are more than the folder can take."""
    rates_in_the_way: bool = False
    """Where nothing would: whether that is for not knowing where the best rates lie between those tried."""


_SAID: Mapping[Ruling, str] = MappingProxyType(
    {
        "low_regret": "LoRA does what full fine-tuning does, within the tolerance",
        "regret": "LoRA falls short of full fine-tuning",
        "inconclusive": "Not settled",
    }
)


class Verdict(Record):
    """`verdict.json`: the answer and its evidence (docs/design.md, The verdict)."""

    verdict: Ruling
    regret_nats: float | None
    regret_percent: float | None
    """Of FullFT's loss: a loss near zero makes any regret look large, so `regret_learned` is what to read."""
    ci95: tuple[float, float] | None
    interval: IntervalParts | None = None
    """What `ci95` is made of; None in records from before 0.3."""
    tolerance_nats: float | None
    reasons: tuple[str, ...]
    recommendation: Recommendation | None
    methods: tuple[MethodResult, ...]
    lora: MethodResult | None
    full: MethodResult | None
    base_nll: float | None = None
    """Held-out loss before any training."""
    learned: float | None = None
    """What FullFT, which regrets are against, has learned: the base's loss minus its own, in nats or in reward."""
    regret_learned: float | None = None
    """The regret as a share of it."""
    lag: Lag | None = None
    """The regret in steps."""
    regret_reward: float | None = None
    """With reinforcement learning, in place of `regret_nats`, `tolerance_nats` and `base_nll`; `ci95` is in reward."""
    tolerance_reward: float | None = None
    base_reward: float | None = None
    search: dict[str, Any] = Field(default_factory=dict)
    """Counts: trials run, pruned, diverged, and the stopping rule in words."""
    gains: Gains | None = None
    settling: Settling | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of a verdict that noise leaves open."""
    decision: Decision | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of a comparison that stopped when it was decided: its looks, and what it left out."""
    environment: dict[str, Any] = Field(default_factory=dict)
    judged_by: str | None = None
    """The lowregret by whose rules; None before 0.3."""

    @property
    def regret(self) -> float | None:
        """In nats, or in reward."""
        return self.regret_nats if self.regret_reward is None else self.regret_reward

    @property
    def tolerance(self) -> float | None:
        """In the regret's unit."""
        return self.tolerance_nats if self.tolerance_reward is None else self.tolerance_reward

    def _repr_html_(self) -> str:
        """For a notebook: the ruling, each method at its best rate, and why."""
        rewarded = self.regret_reward is not None or self.base_reward is not None
        regret = self.regret
        unit = "of reward" if rewarded else "nats per supervised token"
        told = []
        if regret is not None and self.ci95 is not None:
            share = "" if self.regret_learned is None else f"; {self.regret_learned:.1%} of what FullFT learns"
            told = [f"regret {regret:+.4f} {unit} (95 %: {self.ci95[0]:+.4f} to {self.ci95[1]:+.4f}){share}"]
        return card(
            _SAID[self.verdict],
            told,
            ("method", "best rate", "held-out reward" if rewarded else "held-out loss", "regret", "seeds", "trainable"),
            (
                (
                    found.name,
                    number(found.best_learning_rate, ".3g"),
                    number(found.test_reward if rewarded else found.test_nll),
                    number(found.regret, "+.4f"),
                    str(found.seeds),
                    f"{found.trainable_parameters:,}",
                )
                for found in self.methods
            ),
            self.reasons,
        )
