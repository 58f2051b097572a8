"""Transformed hyper-parameters: which trials should be equal, and which should not. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lowregret import limits
from lowregret.questions.question import Evaluations, PlacedQuestion, Rank
from lowregret.spec.method import DEFAULT_ALPHA, LoRA
from lowregret.spec.optimizer import AdamW
from lowregret.spec.study import GroupSpec, PositiveRate
from lowregret.spec.trial import Count

Factor = Annotated[float, Field(gt=0, le=limits.FACTOR)]


class InvarianceQuestion(PlacedQuestion):
    """SCIENCE 3.10: which changes of alpha, init and rates leave a training as it was?"""

    TITLE: ClassVar[str] = "Which settings are the same?"
    QUICK: ClassVar[dict[str, Any]] = {"steps": 40}
    kind: Literal["invariance"] = "invariance"
    steps: Count = 100
    evals: Evaluations = 10
    optimizer: AdamW = AdamW(eps=1e-20)
    """An eps that is as good as none: the invariance holds for Adam without one."""
    rank: Rank = 8
    learning_rate: PositiveRate = 1e-3
    transforms: tuple[tuple[Factor, Factor], ...] = ((2.0, 1.0), (1.0, 3.0), (3.0, 0.7), (0.3, 5.0))
    """(p, q): alpha / (pq), init · p, rate of A · p, rate of B · q."""
    changes: tuple[Factor, ...] = (2.0, 4.0)
    """Factors by which alpha alone, and init alone, are changed to see that these do matter."""

    def groups(self) -> tuple[GroupSpec, ...]:
        return (self.group("main", self.methods(), learning_rates=(self.learning_rate,)),)

    def methods(self) -> tuple[LoRA, ...]:
        """The plain LoRA, its transforms, and those that differ in one invariant."""
        alpha = DEFAULT_ALPHA
        same = [self._lora(alpha=alpha / (p * q), init_scale=p, a_rate=p, b_rate=q) for p, q in self.transforms]
        slope = [self._lora(alpha=alpha * c) for c in self.changes]
        # init over the rate of A changes while alpha · init · rate of B stays
        moved = [self._lora(alpha=alpha / c, init_scale=c) for c in self.changes]
        return (self._lora(), *same, *slope, *moved)

    def _lora(self, **fields: float) -> LoRA:
        return LoRA.model_validate({"rank": self.rank, "targets": self.targets, **fields})
