"""Completions by an engine of any number of ranks, by cases; imported by name, and run on each rank (gloo.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bases import stir
from lowregret.engine import Completion, SamplingParams
from lowregret.engine.parallel.mesh import ALONE, Ranks
from lowregret.engine.policy import LoRAPolicy
from lowregret.spec import FullFT, LoRA
from sharded import Case, engine_of

PARTS = {"base_in_parts": True}
TWO = (LoRA(rank=4), LoRA(rank=2, targets=("attention",)))
GROUPS: Sequence[Sequence[Sequence[int]]] = (
    ([5, 6, 7], [5, 6, 7], [9], [11, 12, 13, 14, 15], [8, 3], [5, 6, 7]),
    ([4, 4, 9, 2],),
)
"""Prompts of each policy: a group, unequal lengths, fewer than ranks."""


@dataclass(frozen=True)
class Sampled:
    """What is sampled, and how."""

    methods: Sequence[FullFT | LoRA] = TWO
    base: str = "llama"
    engine: Mapping[str, Any] = field(default_factory=dict)
    max_rows: int | None = None
    decoder: str = "CachedDecoder"
    """The kind that the base is sampled by."""


CASES: dict[str, Sampled] = {
    "LoRAs": Sampled(base="tiny"),
    "LoRAs, in parts": Sampled(base="tiny", engine=PARTS),
    "few rows at once": Sampled(max_rows=2),
    "few rows at once, in parts": Sampled(max_rows=2, engine=PARTS),
    "FullFT": Sampled([FullFT()]),
    "bfloat16, in parts": Sampled(engine={**PARTS, "precision": "bfloat16"}),
    "a mixture, in parts": Sampled(base="qwen3_moe", engine=PARTS),
    "the base's own cache, in parts": Sampled([LoRA(rank=4)], "gemma2", PARTS, decoder="PaddedDecoder"),
    "no cache, in parts": Sampled([LoRA(rank=4, targets=("mlp",))], "mamba", PARTS, decoder="PlainDecoder"),
}
PARAMS = SamplingParams(max_tokens=12, temperature=0.9, top_p=0.95, stop_ids=tuple(range(3, 600, 9)), seed=3)


@dataclass(frozen=True)
class Found:
    """What came of it."""

    completions: dict[str, list[Completion]]
    streamed: Completion
    told: list[int]
    """Of the stream's tokens, all that the second rank was told."""
    cut: Completion
    """One that the first rank alone ends after two tokens."""
    decoder: str


def sample(name: str, *, alone: bool = False) -> Found:
    """Of policies that differ from the base."""
    case = CASES[name]
    ranks = ALONE if alone else Ranks.of_group("cpu")
    engine = engine_of(Case(case.methods, case.base, engine=case.engine), ranks)
    for number, policy in enumerate(engine.policies.values()):
        if isinstance(policy, LoRAPolicy):
            stir(policy, number)
    prompts = dict(zip(engine.policies, GROUPS, strict=False))
    found = engine.sample(prompts, PARAMS, {"p0": 8}, case.max_rows)
    told: list[int] = []
    streamed = engine.stream("p0", [5, 6, 7], PARAMS, lambda token: told.append(token) is None)
    count = 0

    def two(_: int) -> bool:
        nonlocal count
        count += 1
        return count < 2 or ranks.rank > 0

    cut = engine.stream("p0", [9], SamplingParams(max_tokens=6), two)
    again = engine.sample(prompts, PARAMS, {"p0": 8}, case.max_rows)
    assert again == found, "what a pass leaves behind changes nothing"
    return Found(found, streamed, told, cut, engine.sampling_path.kind.__name__)


def sample_all() -> list[Found]:
    return [sample(name) for name in CASES]
