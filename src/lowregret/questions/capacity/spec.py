"""Facts of known bits and adapters too small for them, and two epochs that teach and elicit. Torch-free."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from lowregret.questions.question import FACTS, Batch, Evaluations, Question, Ranks, facts, log_spaced, loras, sized
from lowregret.spec.data import DataSpec
from lowregret.spec.method import LINEAR_TARGETS, LoRA, Targets
from lowregret.spec.study import GroupSpec
from lowregret.spec.trial import Count

_FACTS_OF_A_PERSON, _TEST_SIZE = 5, 256
"""Of `builtin:biographies`: rows of its test for each person, and their limit when no `test_size` is given."""


class CapacityQuestion(Question):
    """SCIENCE 3.8 and 5: how many bits does a parameter hold, and does training elicit or teach?

    Facts of a known number of bits, met again and again by adapters too small for them.
    """

    TITLE: ClassVar[str] = "How many bits does an adapter hold?"
    OWN: ClassVar[tuple[str, ...]] = ("model", "data", "eval_data")
    QUICK: ClassVar[dict[str, Any]] = {"steps": 500, "people": 64, "ranks": (1, 2, 4, 16)}
    kind: Literal["capacity"] = "capacity"
    evals: Evaluations = 6
    data: DataSpec = facts("size={size},wordings=4,test_size=10240")
    steps: Count = 2000
    batch_size: Batch = 16
    people: Count = 128
    """Of about 25 bits each."""
    ranks: Ranks = (1, 2, 4, 8, 16, 32)
    targets: Targets = (r"re:layers\.2\.mlp\.down_proj$",)
    """Where the adapters are: few matrices, so that the lowest rank has fewer parameters than the facts have bits."""
    elicit: DataSpec = DataSpec(train="builtin:arithmetic:size=4096", max_length=128)
    """Data about what the base knows: there training elicits, so EDL per token falls with their number."""

    @model_validator(mode="after")
    def _known_bits(self) -> CapacityQuestion:
        if not self.data.train.startswith(f"{FACTS}:") or "{size}" not in self.data.train:
            raise ValueError(f"data.train: capacity needs facts of known bits: {FACTS}:size={{size}},… (see recipes)")
        if self.data.eval is not None or self.data.max_eval is not None:
            raise ValueError("data: bits are counted over all facts, so `eval` and `max_eval` must be left out")
        named = re.search(r"\btest_size=(\d+)", self.data.train)
        if (int(named[1]) if named else _TEST_SIZE) < (needed := _FACTS_OF_A_PERSON * self.people):
            raise ValueError(f"data.train: test_size must be {needed} at least, so that every fact is asked for once")
        return self

    def groups(self) -> tuple[GroupSpec, ...]:
        adapters = tuple(LoRA(rank=rank, targets=self.targets) for rank in self.ranks)
        told = self.pair("facts", adapters, data=sized(self.data, self.people))
        # The slope of EDL is over the second half of an epoch: evaluations where it is needed, and one early on.
        steps = min(256, self.steps)
        evals = (self.first_eval, *log_spaced(-(-steps // 2), steps, max(self.evals, 3)))
        short = {"steps": steps, "batch_size": 8, "evals": tuple(sorted(set(evals)))}
        fresh = sized(self.data, 512).model_copy(update={"max_eval": 256})
        teach = self.group("teach", loras((16,), LINEAR_TARGETS), data=fresh, **short)
        return (*told, teach, self.group("elicit", loras((16,), LINEAR_TARGETS), data=self.elicit, **short))
