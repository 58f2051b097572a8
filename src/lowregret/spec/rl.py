"""What is optimised: held-out loss on given completions (`sft`), or the reward of sampled ones (`rl`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from lowregret import limits
from lowregret.spec.base import Spec
from lowregret.spec.marks import Unit

OWN_PROBLEMS = ("builtin:", "gym:")
"""How the spellings of tasks begin that bring their own problems."""
DEFAULT_CLIP = {"ppo_clip": 0.2, "cispo": 4.0}


class SFT(Spec):
    """Supervised fine-tuning: cross-entropy on the completions of the data."""

    kind: Literal["sft"] = "sft"

    @property
    def name(self) -> str:
        """As the command line spells it."""
        return "sft"


class RL(Spec):
    """Policy gradients with a verifiable reward: sample groups of completions, grade them, follow their advantages."""

    kind: Literal["rl"] = "rl"
    task: str
    """What rewards: `builtin:arithmetic[:key=value,…]`, `gym:NAME[:key=value,…]`, `math`, or a function
    (prompt, completion, row) -> float of yours, in a file under the working folder, as `MODULE:FUNCTION` or
    `FILE.py:FUNCTION`. A function is run only when the command line names it: a file's word is not enough."""
    trust_task: bool = Field(default=False, exclude_if=lambda value: value is False)
    """Do not confine a function of yours, which may then use the network, files, processes, memory and the environment;
    and grade by a task that runs completions as Python even where it cannot be confined. Only the command line may say
    it."""
    instruction: str = ""
    """Follows each problem in the prompt after a blank line, to say how to answer; nothing when not given. Not part of
    what rewards see."""
    group_size: Annotated[int, Unit("completions")] = Field(default=8, ge=2, le=limits.ROWS)
    """Completions of each problem of a batch; an advantage is a reward minus the mean of its group."""
    max_tokens: Annotated[int, Unit("tokens")] = Field(default=128, ge=1, le=limits.TOKENS)
    """Longest completion."""
    temperature: float = Field(default=1.0, gt=0, le=10)
    """Of sampling: divides the logits, there and when learning."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample from the most likely tokens that together have this probability. Below 1 the sampler is no longer the
    policy, and the ratios of importance sampling stay below one."""
    sampler: Literal["engine", "vllm"] = "engine"
    """What draws completions: the engine that trains, or vLLM on a GPU, which takes plain LoRAs only."""
    stop: tuple[str, ...] = ()
    """A text that ends a completion, besides what ends a turn; may be repeated, and there is none when not given.
    The grader does not see it."""
    estimator: Literal["importance_sampling", "ppo_clip", "cispo"] = "importance_sampling"
    """The loss: −Σ (p_learner / p_sampler) · A, or one of its clipped relatives (engine/losses.py)."""
    clip: float | None = Field(default=None, gt=0, le=limits.FACTOR)
    """How far a ratio may be from 1: 0.2 for ppo_clip, both ways, and 4 for cispo, upwards, when not given."""
    divide_by_std: bool = False
    """Divide advantages by the standard deviation of their group, as GRPO does."""
    kl: Annotated[float, Unit("reward per nat a token")] = Field(default=0.0, ge=0, le=limits.FACTOR)
    """Weight of the KL divergence from the base."""
    entropy: Annotated[float, Unit("reward per nat a token")] = Field(default=0.0, ge=0, le=limits.FACTOR)
    """Weight of the entropy of the policy."""
    updates: Annotated[int, Unit("steps")] = Field(default=1, ge=1, le=limits.REPEATS)
    """Optimizer steps for each batch of samples, each on an equal part of its groups."""
    time_limit: Annotated[float, Unit("seconds")] = Field(default=5.0, gt=0, le=limits.SECONDS)
    """How long grading one completion may take."""
    failure_reward: float = Field(default=0.0, ge=-1e6, le=1e6)
    """The reward of a completion whose grading raises, takes too long or too much memory, or gives no finite number of
    at most 10⁶ in size; each is reported. When that is every completion of a step or an evaluation, the trial ends."""
    eval_samples: Annotated[int, Unit("completions")] = Field(default=1, ge=1, le=limits.ROWS)
    """Completions of each held-out problem in an evaluation."""

    @property
    def name(self) -> str:
        """As the command line spells it."""
        return "rl"

    @property
    def own_problems(self) -> bool:
        """Whether the task brings its problems, so that no data are named."""
        return self.task.startswith(OWN_PROBLEMS)

    @property
    def clip_range(self) -> float:
        """`clip`, or the estimator's default."""
        return DEFAULT_CLIP[self.estimator] if self.clip is None else self.clip

    @model_validator(mode="after")
    def _used(self) -> RL:
        if self.clip is not None and self.estimator not in DEFAULT_CLIP:
            raise ValueError(f"clip is of use with ppo_clip and cispo only, not with {self.estimator}")
        if self.estimator == "ppo_clip" and self.clip_range >= 1:
            raise ValueError(f"clip must be below 1 with ppo_clip, not {self.clip_range:g}")
        if not all(self.stop):
            raise ValueError("stop: an empty text ends every completion at once")
        if any("\ud800" <= letter <= "\udfff" for text in self.stop for letter in text):  # Python's for such bytes
            raise ValueError("stop: is no UTF-8, and a completion is: nothing would end by it")
        return self


def _parse(value: Any) -> Any:
    """`sft` or `rl` into the fields of an objective; what is no text is passed through for pydantic to judge."""
    if not isinstance(value, str):
        return value
    if value not in ("sft", "rl"):
        raise ValueError(f"unknown objective {value!r}: use sft or rl")
    return {"kind": value}


Objective = Annotated[
    SFT | RL, Field(discriminator="kind"), BeforeValidator(_parse, json_schema_input_type=Literal["sft"] | SFT | RL)
]


def objective_kind(values: Any) -> Any:
    """The kind of objective that unchecked fields of a spec ask for; None where they name none."""
    objective = values.get("objective") if isinstance(values, dict) else None
    return objective.get("kind") if isinstance(objective, dict) else getattr(objective, "kind", objective)
