"""A training on an engine of any number of ranks, by cases; imported by name, and run on each rank (gloo.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import torch

from bases import examples, small_base
from lowregret.data.batches import Batch, collate
from lowregret.engine import AdamParams, Engine, SamplingParams
from lowregret.engine.parallel.fsdp import here, whole
from lowregret.engine.parallel.mesh import ALONE, Ranks
from lowregret.engine.parallel.rows import RowSplit
from lowregret.errors import SpecError
from lowregret.models.load import load_base, resolve
from lowregret.spec import FullFT, LoRA


@dataclass(frozen=True)
class Case:
    """What is trained, and how."""

    methods: Sequence[FullFT | LoRA]
    base: str = "tiny"
    steps: int = 6
    rows: Sequence[int] = (9, 4, 9, 1)
    """Of the batches, in turn: uneven, and fewer than ranks."""
    clip: float | None = None
    passes: int = 1
    """Passes a step, whose gradients add up."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    prompts: bool = False
    """Whether rows of a batch share prompts."""


PACK = (LoRA(rank=8), LoRA(rank=3, targets=("attention",)), LoRA(rank=8))
CASES: dict[str, Case] = {
    "FullFT": Case([FullFT()]),
    "FullFT, clipped": Case([FullFT()], clip=0.5),
    "FullFT, three passes a step": Case([FullFT()], passes=3, rows=(9, 7)),
    "FullFT, activations computed twice": Case([FullFT()], engine={"checkpoint_activations": True}),
    "FullFT, bfloat16": Case([FullFT()], engine={"precision": "bfloat16"}),
    "FullFT, unembedding of its own": Case([FullFT()], "llama"),
    "FullFT, weights shared by embedding and unembedding": Case([FullFT()], "qwen3"),
    "FullFT of a mixture": Case([FullFT()], "qwen3_moe"),
    "three LoRAs": Case(PACK),
    "three LoRAs, clipped, two passes a step": Case(PACK, clip=0.05, passes=2, rows=(9, 7)),
    "three LoRAs, bfloat16": Case(PACK, engine={"precision": "bfloat16"}),
    "three LoRAs, activations computed twice": Case(PACK, engine={"checkpoint_activations": True}),
    "LoRAs of shared prompts": Case(PACK[:2], prompts=True),
    "LoRA with dropout": Case([LoRA(rank=4, dropout=0.1)]),
    "DoRA": Case([LoRA(rank=4, dora=True)]),
    "PiSSA and a LoRA": Case([LoRA(rank=4, init="pissa"), LoRA(rank=4)]),
    "LoRAs on experts": Case([LoRA(rank=4), LoRA(rank=2, convention="shared-outer")], "qwen3_moe"),
}
RATE = 2e-3


@dataclass(frozen=True)
class Trained:
    """What came of it. Tensors as numpy arrays, which travel."""

    losses: list[list[float]]
    norms: list[list[float]]
    held_out: list[tuple[list[float], list[int]]]
    before: list[tuple[list[float], list[int]]]
    """Held-out sums before the first step."""
    logprobs: list[Any]
    """Of the last held-out batch, all policies."""
    weights: dict[str, Any]
    saved: dict[str, str]
    """The digest of each policy's saved state."""
    mine: int
    """Numbers of the trained weights and their optimizer's state that this process holds."""


def engine_of(case: Case, ranks: Ranks) -> Engine:
    base = load_base(resolve("tiny")) if case.base == "tiny" else small_base(case.base)
    engine = Engine(base, device="cpu", ranks=ranks, **{"precision": "float32", **case.engine})
    for number, method in enumerate(case.methods):
        engine.add_policy(f"p{number}", method, seed=number)
    return engine


def batch_of(case: Case, seed: int, rows: int) -> Batch:
    found = examples(rows, seed, shortest=12 if case.prompts else 3, longest=20)
    if case.prompts:  # two rows of a prompt of nine tokens, of which none counts
        heads = [found[row // 2 * 2].token_ids[:9] for row in range(rows)]
        found = [
            replace(one, token_ids=(*head, *one.token_ids[9:]), supervised=(*[False] * 9, *one.supervised[9:-1], True))
            for one, head in zip(found, heads, strict=True)
        ]
    batch = collate(found)
    return replace(batch, prompts=torch.arange(rows) // 2) if case.prompts else batch


def train(name: str, folder: Path, halves: int = 0, state: Path | None = None) -> Trained:
    """`halves`: one process alone that computes in passes what so many ranks compute at once. `state`: a folder of an
    earlier training, which is gone on with."""
    case = CASES[name]
    ranks = ALONE if halves else Ranks.of_group("cpu")
    engine = engine_of(case, ranks)
    names = list(engine.policies)
    if state is not None:
        for one in names:
            engine.load(one, state / f"{one}.safetensors")
    held_out = examples(11, 999, shortest=3, longest=40)
    before = list(engine.evaluate(names, held_out).values())
    losses, norms = [], []
    for step in range(case.steps):
        rows = case.rows[step % len(case.rows)]
        batches = {one: batch_of(case, 100 * step + number, rows) for number, one in enumerate(names)}
        total = torch.zeros(len(names))
        for part in range(case.passes):
            own = {one: batch.select(range(part, batch.rows, case.passes)) for one, batch in batches.items()}
            for found in _passes(engine, own, halves):
                total += torch.stack([found[one].loss for one in names])
        losses.append(total.tolist())
        if step == 1:  # what this gathers of the weights is old after the step
            engine.evaluate(names, held_out[:2])
        norms.append(list(engine.optim_step(dict.fromkeys(names, AdamParams(RATE, clip_norm=case.clip))).values()))
    test = batch_of(case, 998, 5)
    saved = {}
    for one in names:
        engine.save(one, folder / f"{one}.safetensors", {"case": name})
        with safetensors.safe_open(folder / f"{one}.safetensors", "pt") as file:
            saved[one] = file.metadata()["digest"]
    tensors = {f"{one}/{key}": weight for one in names for key, weight in engine.policies[one].weights.items()}
    answers = engine.forward(dict.fromkeys([*names, "base"] if len(names) > 1 else names, test))
    return Trained(
        losses,
        norms,
        list(engine.evaluate(names, held_out).values()),
        before,
        [found.logprobs.float().numpy() for found in answers.values()],
        {key: whole(weight.detach()).numpy().copy() for key, weight in tensors.items()},
        saved,
        sum(here(weight.detach()).numel() for weight in tensors.values()),
    )


def _passes(engine: Engine, batches: Mapping[str, Batch], halves: int) -> list[Any]:
    if not halves:
        return [engine.forward_backward(batches)]
    splits = {one: RowSplit.of(batch, halves) for one, batch in batches.items()}
    return [
        engine.forward_backward({one: splits[one].own(batch, part) for one, batch in batches.items()})
        for part in range(halves)
    ]


def train_all(folder: Path, asked: Sequence[tuple[str, Path | None]]) -> list[Trained]:
    """One case after the other on these ranks, from a state or from the start."""
    found = []
    for place, (name, state) in enumerate(asked):
        own = folder / f"case{place}"
        own.mkdir(exist_ok=True)
        found.append(train(name, own, state=state))
    return found


def refusals() -> list[str]:
    """What is said of a base that a FullFT policy has cut into parts."""
    engine = engine_of(CASES["FullFT, unembedding of its own"], Ranks.of_group("cpu"))
    said = []
    for attempt in (
        lambda: engine.sample({"p0": [[2, 3]]}, SamplingParams(max_tokens=1)),
        lambda: (engine.remove_policy("p0"), engine.add_policy("lora", LoRA(rank=2))),
    ):
        try:
            attempt()
        except SpecError as error:
            said.append(str(error))
    return said
