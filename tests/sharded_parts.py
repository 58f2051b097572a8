"""What a base in parts does on an engine of any number of ranks; imported by name, and run on each rank (gloo.py)."""

from __future__ import annotations

import gc
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bases import examples, stir
from lowregret.data.batches import collate
from lowregret.engine import AdamParams, Completion, Engine, SamplingParams
from lowregret.engine.parallel.mesh import ALONE, Ranks
from lowregret.engine.policy import LoRAPolicy
from lowregret.errors import LowregretError
from lowregret.models.bare import bare_base
from lowregret.models.load import load_base, resolve
from lowregret.models.sharded import here, whole
from lowregret.spec import FullFT, LoRA
from sharded import IN_PARTS, Case, Trained, engine_of, train_all

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


@dataclass(frozen=True)
class Filled:
    """A base that each rank has read its own part of."""

    digests: dict[str, str]
    """Of weights, put together, and buffers: type and bytes."""
    share: float
    """Of the base's numbers, those that are here."""


def filled(folder: Path, precision: str, *, alone: bool = False) -> Filled:
    """`alone`: by one process that reads it whole."""
    source = resolve(str(folder))
    base = load_base(source) if alone else bare_base(source, torch.float32)
    ranks = ALONE if alone else Ranks.of_group("cpu")
    model = Engine(base, device="cpu", precision=precision, ranks=ranks, base_in_parts=True).model
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    numbers = sum(here(weight).numel() for weight in model.parameters())
    return Filled(
        {name: _digest(whole(tensor.detach())) for name, tensor in tensors.items()},
        numbers / sum(weight.numel() for weight in model.parameters()),
    )


def _digest(tensor: Tensor) -> str:
    return f"{tensor.dtype} {hashlib.sha256(tensor.contiguous().flatten().view(torch.uint8).numpy()).hexdigest()}"


def refused(broken: Path, short: Path) -> list[str]:
    """What is said of a FullFT policy on parts of bfloat16, of a number that is not finite in the last rank's part, and
    of a folder that lacks a weight."""
    ranks = Ranks.of_group("cpu")

    def fill(folder: Path) -> Engine:
        return Engine(bare_base(resolve(str(folder)), torch.float32), device="cpu", ranks=ranks, base_in_parts=True)

    def full() -> None:
        engine = engine_of(Case([], engine={**PARTS, "precision": "bfloat16"}), ranks)
        engine.add_policy("full", FullFT())

    said = []
    for attempt in (full, partial(fill, broken), partial(fill, short)):
        try:
            attempt()
        except LowregretError as error:
            said.append(str(error))
    return said


def held_bytes() -> tuple[int, int, int]:
    """(of the whole base's numbers, of all tensors of this process once the engine stands, and of those after training,
    judging and sampling but for the policy's gradients and moments), in bytes."""
    base = load_base(resolve("tiny"))
    numbers = sum(weight.numel() for weight in base.model.parameters())
    engine = Engine(base, device="cpu", precision="float32", ranks=Ranks.of_group("cpu"), base_in_parts=True)
    engine.add_policy("a", LoRA(rank=1, targets=("attention",)))
    before = _storages()
    for seed in (0, 1):
        engine.forward_backward({"a": collate(examples(3, seed))})
        engine.optim_step({"a": AdamParams(1e-3)})
        engine.evaluate(["a"], examples(3, 9))
        engine.sample({"a": [[3, 4], [5]]}, SamplingParams(max_tokens=3))
    policy = engine.policies["a"]
    assert isinstance(policy, LoRAPolicy)
    return 4 * numbers, before, _storages() - 3 * policy.bank.weights.nbytes


def _storages() -> int:
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # asking an object what it is may be deprecated
        found = {
            own.untyped_storage().data_ptr(): own.untyped_storage().nbytes()
            for held in gc.get_objects()
            if isinstance(held, Tensor)
            for own in [here(held)]
            if own.device.type == "cpu"
        }
    return sum(found.values())


@dataclass(frozen=True)
class Everything:
    held: tuple[int, int, int]
    trained: list[Trained]
    sampled: list[Found]
    filled: list[Filled]
    refused: list[str]


def everything(folder: Path, folders: Sequence[tuple[Path, str]], broken: Path, short: Path) -> Everything:
    """All of it by one start of processes. Bytes first, while nothing else is held."""
    return Everything(
        held_bytes(),
        train_all(folder, [(name, None) for name in IN_PARTS], True),
        [sample(name) for name in CASES],
        [filled(*each) for each in folders],
        refused(broken, short),
    )
