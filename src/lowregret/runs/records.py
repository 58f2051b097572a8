"""The shapes of what a trial leaves in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from lowregret.notebook_card import card, number
from lowregret.runs.boundary import NAME
from lowregret.runs.record import Record
from lowregret.spec import TrialSpec

Status = Literal["running", "finished", "diverged", "pruned", "failed"]


STOPPED = "stopped by request"
"""How the error of a trial begins that ended because somebody asked for it (`runs.requests`)."""
PILOT = "pilot"
"""How the error of a trial begins that was trained a part of its way, and no further."""
PUT_ASIDE = f"{PILOT} that is not needed: "
"""How that of one begins whose comparison is complete without it."""


class TrialRecord(Record):
    """`trials/<id>/trial.json`: one trial, from its start to its end."""

    id: str = Field(pattern=NAME)
    """Its folder's name; what trial it is, `spec` alone says."""
    method: str
    """The name of `spec.method`."""
    learning_rate: float = Field(gt=0, lt=1e3)
    seed: int
    status: Status
    spec: TrialSpec
    test_nll: float | None = None
    """Held-out nats per supervised token at the last evaluation; None before one."""
    test_tokens: int = 0
    test_examples: int = 0
    """Held-out examples that judged it; 0 in records from before it was noted."""
    search_nll: float | None = None
    """`test_nll` over the held-out examples that all trials of the folder share: the first ones, where later sessions
    asked for more. None where that is `test_nll`."""
    test_reward: float | None = None
    """With reinforcement learning: mean held-out reward at the last evaluation; None before one."""
    steps: int = 0
    """Optimizer steps taken; with reinforcement learning, batches of samples."""
    tokens: int = 0
    """Training tokens processed, prompts included."""
    seconds: float = 0.0
    """Wall time in the training loop, evaluation included, loading excluded. Of a pack's time, the trial's share:
    of each pass by its tokens, of the rest in equal parts."""
    peak_memory_bytes: int = 0
    """While the trial was in training; that of the whole pack, when it was one of several."""
    pack_size: int = 1
    """The most trials in training at once with this one, itself included."""
    shared_seconds: float = 0.0
    """Its share of the time of its training steps in passes with other trials."""
    shared_seconds_alone: float = 0.0
    """What those steps would have taken alone: an estimate from its second step, which has passes of its own."""
    forward_path: str | None = None
    """How the base was run, and why no faster way was taken; None in records from before it was noted."""
    trainable_parameters: int = 0
    checkpoint_bytes: int = 0
    """Size of what would be shipped: the adapter, or the whole model."""
    evaluation_seconds: float = 0.0
    """Wall time of its last held-out evaluation; of one that it shared with others, its part."""
    inputs: str | None = None
    """Of what run it is (`runs.manifest.identity`); None in records of earlier versions."""
    shipped: Mapping[str, str] = Field(default_factory=dict)
    """File → SHA-256 of what a finished trial has left in adapter/ or model/; {} where it left nothing."""
    stop_texts: tuple[str, ...] = Field(default=(), exclude_if=lambda texts: not texts)
    """Texts that end a reply of what it has left and are no token (`models.stops`): a server must be told."""
    taken_from: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """The folder of the same trial in another run, where it was trained (`study.elsewhere`), as the command that took
    it over named it; None for one of its own."""
    error: str | None = None
    note: str | None = None
    """What to know of a finished trial's result, in a sentence; None for nothing."""
    pruned_by: str | None = Field(default=None, pattern=NAME)
    """The id of the trial that a pruned one was compared with."""

    @classmethod
    def of(cls, trial: TrialSpec, **facts: Any) -> TrialRecord:
        """The record of a trial, with what its spec says; an `id` among the facts is that of an older folder."""
        own = {"id": trial.id, "method": trial.method.name, "learning_rate": trial.learning_rate, "seed": trial.seed}
        return cls(**{**own, "spec": trial, **facts})

    @model_validator(mode="after")
    def _spelled_as_today(self) -> TrialRecord:
        """A record of before 0.3.0 says `lora:16` of attention and mlp; what the trial is, stands in its spec."""
        object.__setattr__(self, "method", self.spec.method.name)
        return self

    @property
    def stopped(self) -> bool:
        """Whether somebody asked it to end."""
        return self.status == "failed" and (self.error or "").startswith(STOPPED)

    @property
    def pilot(self) -> bool:
        """Whether it counts as stopped early for having been a pilot alone: not for a loss that was compared."""
        return self.status == "pruned" and (self.error or "").startswith(PILOT)

    @property
    def put_aside(self) -> bool:
        """Whether it was a pilot that the comparison did not need: no search goes by it, and one that asks for it has
        it trained again, from its beginning."""
        return self.pilot and (self.error or "").startswith(PUT_ASIDE)

    @property
    def test_loss(self) -> float | None:
        """What a search makes small: `test_nll`, or minus `test_reward`."""
        return self.test_nll if self.test_reward is None else -self.test_reward

    @property
    def shared_loss(self) -> float | None:
        """The same on the held-out examples that all trials of the folder share: what rates are compared by."""
        return self.test_loss if self.search_nll is None else self.search_nll

    def _repr_html_(self) -> str:
        """For a notebook: the trial, how it ended, and what it took."""
        rewarded = self.test_reward is not None
        facts = {
            "held-out reward" if rewarded else "held-out loss": number(self.test_reward if rewarded else self.test_nll),
            "steps": f"{self.steps:,}",
            "tokens": f"{self.tokens:,}",
            "seconds": f"{self.seconds:.1f}",
            "trainable parameters": f"{self.trainable_parameters:,}",
        }
        title = f"{self.method}, learning rate {self.learning_rate:.3g}, seed {self.seed}: {self.status}"
        return card(title, rows=facts.items(), notes=(told for told in (self.error, self.note) if told))


class RewardMetric(Record):
    """What a line of `metrics.jsonl` says about the samples of a step of reinforcement learning."""

    reward: float
    """Mean over the samples, before the step's update."""
    pass_rate: float
    """Share of the samples whose reward is 1 or more."""
    length: float
    """Tokens of a completion, mean."""
    truncated: float
    """Share of the samples that were cut at `max_tokens`."""
    entropy: float
    """−log p of the sampled tokens under the sampler, mean: an estimate of the policy's entropy, nats a token."""
    logprob_gap: float | None = None
    """|log p_learner − log p_sampler| of the tokens of the first update, mean, nats; None when all groups dropped."""
    logprob_gap_max: float | None = None
    kl: float | None = None
    """From the base, nats a token; None when it has no weight."""
    groups: int
    dropped_groups: int
    """Groups of equal rewards: they teach nothing and are left out."""
    bits: float
    """Σ over samples of the entropy of their group's rewards, in bits: a bound on what the step can teach
    (SCIENCE 5)."""
    failures: int = 0
    """Samples whose grading failed; `failures.jsonl` names them."""


class Metric(Record):
    """A line of `metrics.jsonl`."""

    step: int
    """Optimizer steps done, from 1; with reinforcement learning, 0 is the evaluation before the first."""
    tokens: int
    train_nll: float | None = None
    """Before the step's update, on the step's batch, nats per supervised token."""
    test_nll: float | None = None
    """After the step's update, on the whole held-out set."""
    search_nll: float | None = None
    """The same on those held-out examples that all trials of the folder share, where that is not all."""
    test_reward: float | None = None
    """The same with reinforcement learning: the mean reward of held-out problems."""
    rl: RewardMetric | None = None
    lr: float | None = None
    grad_norm: float | None = None
    seconds: float

    @property
    def test_loss(self) -> float | None:
        """What a search makes small: `test_nll`, or minus `test_reward`."""
        return self.test_nll if self.test_reward is None else -self.test_reward

    @property
    def shared_loss(self) -> float | None:
        """The same on the held-out examples that all trials of the folder share: what rates are compared by."""
        return self.test_loss if self.search_nll is None else self.search_nll


class ExampleLosses(Record):
    """`trials/<id>/examples.json`: the last evaluation, example by example, for paired statistics."""

    nll_sums: tuple[float, ...]
    """Summed over the example's supervised tokens, nats."""
    tokens: tuple[int, ...]
    """Supervised tokens of each example."""

    @property
    def loss_sums(self) -> tuple[float, ...]:
        """What a paired comparison sums up."""
        return self.nll_sums

    @property
    def weights(self) -> tuple[int, ...]:
        """What it divides by."""
        return self.tokens


class ExampleRewards(Record):
    """`trials/<id>/examples.json` with reinforcement learning: the last evaluation, problem by problem."""

    rewards: tuple[float, ...]
    """Mean over the problem's completions."""
    samples: int
    """Completions of each problem; the same random numbers draw them in every trial."""
    tokens: tuple[int, ...]
    """Tokens of each problem's completions."""

    @property
    def loss_sums(self) -> tuple[float, ...]:
        """What a paired comparison sums up: minus the rewards."""
        return tuple(-reward for reward in self.rewards)

    @property
    def weights(self) -> tuple[int, ...]:
        """Every problem counts alike."""
        return (1,) * len(self.rewards)
