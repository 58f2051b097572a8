"""The question of mixtures of experts: where the adapter goes, and what its rank means there. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from lowregret.questions.question import Question, Rank
from lowregret.spec.conventions import CONVENTIONS, DEFAULT_CONVENTION, Convention
from lowregret.spec.method import LINEAR_TARGETS, LoRA
from lowregret.spec.study import GroupSpec
from lowregret.spec.trial import Count

_ON_TINY_MOE: Mapping[Convention, int] = MappingProxyType({"per-total": 40, "shared-outer": 13, "full-rank-each": 9})
"""Per-active at rank 16 has 311,296 parameters; these have 317,440, 312,832 and 313,344."""


class MoEQuestion(Question):
    """SCIENCE 3.6 and 3.13: on a sparse base, must the adapter be on the experts, and how is its rank divided?

    Ranks that make two adapters as large as each other depend on the base, so they are given; the claims that rest on
    them stay open where they are off.
    """

    TITLE: ClassVar[str] = "Where in a mixture of experts?"
    OWN: ClassVar[tuple[str, ...]] = ("model",)
    QUICK: ClassVar[dict[str, Any]] = {"steps": 100}
    kind: Literal["moe"] = "moe"
    model: str = "tiny-moe"
    steps: Count = 400
    rank: Rank = 16
    """Of experts alone, attention alone, both, and of each convention at an equal rank."""
    attention_rank: Rank = 60
    """At which attention alone has as many parameters as the experts alone at `rank`."""
    equal_parameters: dict[Convention, Rank] = Field(default_factory=lambda: dict(_ON_TINY_MOE))
    """At which each other convention, on attention and experts, has as many parameters as per-active at `rank`."""
    tolerance: float = Field(default=0.005, gt=0, lt=1)
    """Regret below this share of the FullFT loss is none."""

    @field_validator("equal_parameters")
    @classmethod
    def _in_order(cls, value: dict[Convention, int]) -> dict[Convention, int]:
        if set(value) != set(OTHERS):
            raise ValueError(f"give a rank to each of {', '.join(OTHERS)}; {DEFAULT_CONVENTION} has `rank`")
        return {name: value[name] for name in OTHERS}

    @model_validator(mode="after")
    def _apart(self) -> MoEQuestion:
        same = [name for name, rank in self.equal_parameters.items() if rank == self.rank]
        if same or self.attention_rank == self.rank:
            what = f"equal_parameters.{same[0]}" if same else "attention_rank"
            raise ValueError(f"{what}: {self.rank} is `rank` itself, which is compared with it; give another one")
        return self

    @property
    def both(self) -> LoRA:
        """Attention and experts by the post's convention: what all others are compared with."""
        return LoRA(rank=self.rank, targets=LINEAR_TARGETS)

    @property
    def experts(self) -> LoRA:
        """The experts alone."""
        return LoRA(rank=self.rank, targets=("experts",))

    def attention(self, rank: int) -> LoRA:
        """Attention alone."""
        return LoRA(rank=rank, targets=("attention",))

    def at_equal_rank(self) -> dict[Convention, LoRA]:
        """The other conventions at `rank`."""
        return {name: LoRA(rank=self.rank, targets=LINEAR_TARGETS, convention=name) for name in OTHERS}

    def at_equal_parameters(self) -> dict[Convention, LoRA]:
        """The other conventions with as many parameters as per-active has at `rank`."""
        return {
            name: LoRA(rank=rank, targets=LINEAR_TARGETS, convention=name)
            for name, rank in self.equal_parameters.items()
        }

    def groups(self) -> tuple[GroupSpec, ...]:
        conventions = (*self.at_equal_rank().values(), *self.at_equal_parameters().values())
        where = (self.experts, self.attention(self.rank), self.attention(self.attention_rank))
        return self.pair("main", (self.both, *where, *conventions))


OTHERS: tuple[Convention, ...] = tuple(name for name in CONVENTIONS if name != DEFAULT_CONVENTION)
"""The conventions that the post's is compared with."""
