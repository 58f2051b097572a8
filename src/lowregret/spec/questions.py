"""The questions of the post, each a study with a recipe of its own (SCIENCE.md 3). Torch-free.

A question says which groups of trials answer it; the runner trains them, `analysis.claims` judges, `report` draws.
Every default is the study on the bundled base; `QUICK` is what `--quick` changes.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from lowregret.spec.data import DataSpec
from lowregret.spec.method import DEFAULT_ALPHA, DEFAULT_TARGETS, LoRA, Method
from lowregret.spec.question import FACTS, Once, Question, Rank, Ranks, facts, log_spaced, loras, plain, sized
from lowregret.spec.study import GroupSpec, PositiveRate
from lowregret.spec.trial import Count, OptimizerSpec

_FACTS_OF_A_PERSON, _TEST_SIZE = 5, 256
"""Of `builtin:biographies`: rows of its test for each person, and their limit when no `test_size` is given."""


class RankQuestion(Question):
    """SCIENCE.md 3.1: do FullFT and high ranks coincide, and where do low ranks leave the common curve?"""

    QUICK: ClassVar[dict[str, Any]] = {"steps": 240, "ranks": (1, 4, 16, 64), "sizes": (32, 256)}
    kind: Literal["rank"] = "rank"
    data: DataSpec = facts("size={size},wordings=6,test_size=128")
    steps: Count = 800
    ranks: Ranks = (1, 2, 4, 8, 16, 32, 64, 128)
    sizes: Annotated[tuple[Count, ...], Field(min_length=1), Once] = (32, 128, 512)
    """Data sizes: what stands for `{size}` in `data.train`, or the first so many training examples."""
    tolerance: float = Field(default=0.005, gt=0, lt=1)
    """Regret below this share of the FullFT loss is none."""

    def groups(self) -> tuple[GroupSpec, ...]:
        # Each size searches for itself: a few trials more, and none that another core waits for.
        pairs = (self.pair(f"size-{size}", loras(self.ranks), data=sized(self.data, size)) for size in self.sizes)
        return tuple(group for pair in pairs for group in pair)


class LearningRateQuestion(Question):
    """SCIENCE.md 3.2: how far is LoRA's best rate above FullFT's, and does it move with rank?"""

    QUICK: ClassVar[dict[str, Any]] = {"steps": 160, "ranks": (1, 4, 16, 64)}
    kind: Literal["learning-rate"] = "learning-rate"
    prune: None = None
    """No trial is stopped early: the U-curves are what is asked for."""
    ranks: Ranks = (1, 4, 16, 64, 128)

    def groups(self) -> tuple[GroupSpec, ...]:
        return self.pair("main", loras(self.ranks), seeds_at="bracket")


class ShortRunsQuestion(Question):
    """SCIENCE.md 3.3: is the ratio of best rates larger in short runs?

    One run at a constant rate passes through all shorter ones, so each trial serves every length.
    """

    QUICK: ClassVar[dict[str, Any]] = {"steps": 200, "lengths": (25, 50, 100, 200), "ranks": (16,)}
    kind: Literal["short-runs"] = "short-runs"
    data: DataSpec = facts("size=512,wordings=6,test_size=128")
    steps: Count = 2000
    prune: None = None
    """No trial is stopped early: one that ends badly may be the best of the short ones."""
    ranks: Ranks = (16,)
    lengths: Annotated[tuple[Count, ...], Field(min_length=2)] = (25, 50, 100, 200, 400, 800, 2000)
    """Steps at which the best rates are compared, ascending; the last is the length of the runs."""

    @model_validator(mode="after")
    def _last_is_length(self) -> ShortRunsQuestion:
        if list(self.lengths) != sorted(set(self.lengths)) or self.lengths[-1] != self.steps:
            raise ValueError(f"lengths: must ascend and end with the {self.steps} steps of a run")
        if self.optimizer.schedule != "constant":
            raise ValueError("optimizer.schedule: only at a constant rate is a run's beginning a shorter run")
        return self

    def groups(self) -> tuple[GroupSpec, ...]:
        shared = {"bracket_at": self.lengths, "evals": self.lengths, "seeds_at": "bracket"}
        return self.pair("main", loras(self.ranks), **shared)


class EarlyQuestion(Question):
    """SCIENCE.md 3.4: at one rate, are the curves of all ranks the same at first?"""

    QUICK: ClassVar[dict[str, Any]] = {"ranks": (1, 4, 16, 64, 256)}
    kind: Literal["early"] = "early"
    steps: Count = 128
    evals: Count = 16
    first_eval: Count = 1
    ranks: Annotated[tuple[Rank, ...], Field(min_length=2), Once] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    learning_rate: PositiveRate = 1e-3
    early_steps: Count = 8
    """What counts as early: the differences between ranks after so many steps are those of the claim."""

    def groups(self) -> tuple[GroupSpec, ...]:
        return (self.group("main", loras(self.ranks), learning_rates=(self.learning_rate,)),)


class BatchSizeQuestion(Question):
    """SCIENCE.md 3.5: does LoRA lose more than FullFT as the batch grows, whatever its rank?"""

    QUICK: ClassVar[dict[str, Any]] = {"batches": (4, 16, 64, 256), "examples": 2048}
    kind: Literal["batch-size"] = "batch-size"
    data: DataSpec = facts("size=256,wordings=6,test_size=128")
    batches: Annotated[tuple[Count, ...], Field(min_length=2), Once] = (4, 8, 16, 32, 64, 128, 256)
    examples: Count = 4096
    """Training examples of every run, whatever its batch: the steps follow from it."""
    ranks: Ranks = (4, 64)

    @model_validator(mode="after")
    def _whole_steps(self) -> BatchSizeQuestion:
        uneven = [batch for batch in self.batches if self.examples % batch]
        if uneven:
            raise ValueError(f"examples: {self.examples} is no multiple of batch {uneven[0]}")
        return self

    def groups(self) -> tuple[GroupSpec, ...]:
        found: list[GroupSpec] = []
        for index, batch in enumerate(self.batches):
            start = f"batch-{self.batches[index - 1]}" if index else None
            length = {"batch_size": batch, "steps": self.examples // batch}
            found += self.pair(f"batch-{batch}", loras(self.ranks), start_from=start, **length)
        return tuple(found)


class LayersQuestion(Question):
    """SCIENCE.md 3.6: which matrices should carry the adapter?"""

    QUICK: ClassVar[dict[str, Any]] = {"steps": 160, "ranks": (8,)}
    kind: Literal["layers"] = "layers"
    ranks: Ranks = (4, 16)
    """Ranks of the MLP-only adapter. Attention alone has twice the rank, so that it has no fewer parameters."""

    def groups(self) -> tuple[GroupSpec, ...]:
        found = [
            LoRA(rank=factor * rank, targets=targets)
            for rank in self.ranks
            for targets, factor in (
                (("mlp",), 1),
                (("attention",), 2),
                (("attention",), 1),
                (DEFAULT_TARGETS, 1),
                ((*DEFAULT_TARGETS, "unembedding"), 1),
            )
        ]
        return self.pair("main", tuple(dict.fromkeys(found)))


class CapacityQuestion(Question):
    """SCIENCE.md 3.8 and 5: how many bits does a parameter hold, and does training elicit or teach?

    Facts of a known number of bits, met again and again by adapters too small for them.
    """

    QUICK: ClassVar[dict[str, Any]] = {"steps": 500, "people": 64, "ranks": (1, 2, 4, 16)}
    kind: Literal["capacity"] = "capacity"
    evals: Count = 6
    data: DataSpec = facts("size={size},wordings=4,test_size=10240")
    steps: Count = 2000
    batch_size: Count = 16
    people: Count = 128
    """Of about 25 bits each."""
    ranks: Ranks = (1, 2, 4, 8, 16, 32)
    targets: tuple[str, ...] = (r"re:layers\.2\.mlp\.down_proj$",)
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
        teach = self.group("teach", loras((16,)), data=fresh, **short)
        return (*told, teach, self.group("elicit", loras((16,)), data=self.elicit, **short))


class ComputeQuestion(Question):
    """SCIENCE.md 3.9: time and memory of a LoRA step over those of a FullFT step, against theory.

    Measured on bases with random weights, one trial at a time, with nothing else running.
    """

    QUICK: ClassVar[dict[str, Any]] = {"widths": (128, 512), "ranks": (1, 16, 128), "repeats": 3}
    kind: Literal["compute"] = "compute"
    widths: Annotated[tuple[Count, ...], Field(min_length=1), Once] = (128, 256, 512, 1024)
    """Hidden sizes of the bases made for this, of `depth` layers each."""
    depth: Count = 4
    ranks: Ranks = (1, 4, 16, 64, 256)
    tokens: Count = 512
    """Of a step, in rows of 64."""
    repeats: Count = 5
    """Timed steps of each method, taken in turns."""

    def groups(self) -> tuple[GroupSpec, ...]:
        return ()


class InvarianceQuestion(Question):
    """SCIENCE.md 3.10: which changes of alpha, init and rates leave a training as it was?"""

    QUICK: ClassVar[dict[str, Any]] = {"steps": 40}
    kind: Literal["invariance"] = "invariance"
    steps: Count = 100
    evals: Count = 10
    optimizer: OptimizerSpec = OptimizerSpec(eps=1e-20)
    """An eps that is as good as none: the invariance holds for Adam without one."""
    rank: Rank = 8
    learning_rate: PositiveRate = 1e-3
    transforms: tuple[tuple[float, float], ...] = ((2.0, 1.0), (1.0, 3.0), (3.0, 0.7), (0.3, 5.0))
    """(p, q): alpha / (pq), init · p, rate of A · p, rate of B · q."""
    changes: tuple[float, ...] = (2.0, 4.0)
    """Factors by which alpha alone, and init alone, are changed to see that these do matter."""

    def groups(self) -> tuple[GroupSpec, ...]:
        return (self.group("main", self.methods(), learning_rates=(self.learning_rate,)),)

    def methods(self) -> tuple[LoRA, ...]:
        """The plain LoRA, its transforms, and those that differ in one invariant."""
        alpha = DEFAULT_ALPHA
        same = [
            LoRA(rank=self.rank, alpha=alpha / (p * q), init_scale=p, a_rate=p, b_rate=q) for p, q in self.transforms
        ]
        slope = [LoRA(rank=self.rank, alpha=alpha * c) for c in self.changes]
        # init over the rate of A changes while alpha · init · rate of B stays
        moved = [LoRA(rank=self.rank, alpha=alpha / c, init_scale=c) for c in self.changes]
        return (LoRA(rank=self.rank), *same, *slope, *moved)


class VariantsQuestion(Question):
    """SCIENCE.md 5: tuned alike, are the published variants better than plain LoRA, and which forgets least?"""

    QUICK: ClassVar[dict[str, Any]] = {"steps": 100}
    kind: Literal["variants"] = "variants"
    prune: None = None
    """No trial is stopped early: the fits need both neighbours of the best rate."""
    methods: Annotated[tuple[Method, ...], Once] = (
        LoRA(rank=16),
        LoRA(rank=16, init="pissa"),
        LoRA(rank=16, init="olora"),
        LoRA(rank=16, init="orthogonal"),
        LoRA(rank=16, scaling="alpha/sqrt(r)"),
        LoRA(rank=16, b_rate=16),
        LoRA(rank=16, dora=True),
    )
    """Plain LoRA first; the others are compared with it."""
    base_text: str = "builtin:corpus"
    """Held-out data of what the base was trained on: the loss on it tells what a method forgets."""

    def groups(self) -> tuple[GroupSpec, ...]:
        return self.pair("main", self.methods, forgetting=self.base_text, seeds_at="bracket")


class ScalingQuestion(Question):
    """Which claims drift with the size of the base?"""

    QUICK: ClassVar[dict[str, Any]] = {"steps": 160, "ranks": (1, 16)}
    kind: Literal["scaling"] = "scaling"
    prune: None = None
    """No trial is stopped early: the fits need both neighbours of the best rate."""
    models: Annotated[tuple[str, ...], Field(min_length=2), Once] = ("tiny-32", "tiny-64", "tiny")
    """Bases made alike that differ in width, in any order."""
    ranks: Ranks = (1, 16, 64)

    def groups(self) -> tuple[GroupSpec, ...]:
        found: list[GroupSpec] = []
        for model in self.models:
            found += self.pair(plain(model), loras(self.ranks), model=model, seeds_at="bracket")
        return tuple(found)
