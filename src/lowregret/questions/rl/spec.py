"""The question about reinforcement learning, a study with a recipe of its own (SCIENCE 3.7, 3.8). Torch-free."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from lowregret import limits
from lowregret.questions.question import Batch, Evaluations, PlacedQuestion, Ranks, loras
from lowregret.spec.data import DataSpec
from lowregret.spec.rl import RL, Objective
from lowregret.spec.study import RL_TOLERANCE, GroupSpec
from lowregret.spec.trial import Count

TASK = "builtin:arithmetic:difficulty=5"


class RLQuestion(PlacedQuestion):
    """SCIENCE 3.7: does LoRA match FullFT down to rank 1 where rewards teach, at more learning rates?

    A trial samples, so it takes far longer than one of supervised fine-tuning: `study all` leaves the question out.
    """

    TITLE: ClassVar[str] = "Does rank 1 suffice where rewards teach?"
    OBJECTIVE: ClassVar[str] = "rl"
    IN_ALL: ClassVar[bool] = False
    QUICK: ClassVar[dict[str, Any]] = {"steps": 32, "batch_size": 8, "ranks": (1, 16), "evals": 3}
    kind: Literal["rl"] = "rl"
    objective: Objective = RL(task=TASK, max_tokens=80)
    data: DataSpec = DataSpec(train=TASK, overlong="drop")
    steps: Count = 60
    batch_size: Batch = 16
    """Problems a step."""
    evals: Evaluations = 6
    first_eval: Count = 8
    prune: None = None
    """No trial is stopped early: which rates are good is what is asked for, and rewards rise along an S."""
    ranks: Ranks = (1, 4, 16, 64)
    tolerance: float = Field(default=RL_TOLERANCE, gt=0, le=limits.FACTOR)
    """Regret below so much reward is none."""
    good: float = Field(default=0.9, gt=0, lt=1)
    """A rate is good when its trial gains this share of the reward that the best one's gains over the base."""

    @model_validator(mode="after")
    def _rows_for_its_task(self) -> RLQuestion:
        if isinstance(self.objective, RL) and not self.objective.own_problems and self.data.train == TASK:
            raise ValueError(
                f"data.train: the task {self.objective.task!r} brings no problems of its own; name its rows"
            )
        return self

    def groups(self) -> tuple[GroupSpec, ...]:
        return self.pair("main", loras(self.ranks, self.targets), seeds_at="range", until_gain=self.good)
