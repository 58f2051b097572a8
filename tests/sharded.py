"""A training on an engine of any number of ranks, by cases; imported by name, and run on each rank (gloo.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import safetensors
import torch

from bases import examples, small_base
from lowregret.data.batches import Batch, collate
from lowregret.engine import AdamParams, Engine, SamplingParams
from lowregret.engine.forward.path import PATHS
from lowregret.engine.parallel.mesh import ALONE, Ranks
from lowregret.engine.parallel.rows import Dealing
from lowregret.models.load import load_base, resolve
from lowregret.models.sharded import here, whole
from lowregret.spec import FullFT, LoRA, optimizer


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
    alone: bool = False
    """Whether each pass holds one row."""
    sliced: bool = False
    """Whether the optimizer's state of adapters lies in slices, however small it is."""


PACK = (LoRA(rank=8), LoRA(rank=3, targets=("attention",)), LoRA(rank=8))
_BALANCED = {"balance_experts": True}
BALANCE = 0.5
"""The load-balancing loss's coefficient where it is taken."""
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
    "one LoRA": Case(PACK[:1]),
    "one LoRA, clipped, two passes a step": Case(PACK[:1], clip=0.05, passes=2, rows=(9, 7)),
    "three LoRAs, bfloat16": Case(PACK, engine={"precision": "bfloat16"}),
    "three LoRAs, activations computed twice": Case(PACK, engine={"checkpoint_activations": True}),
    "LoRAs of shared prompts": Case(PACK[:2], prompts=True),
    "LoRA with dropout": Case([LoRA(rank=4, dropout=0.1)]),
    "DoRA": Case([LoRA(rank=4, dora=True)]),
    "PiSSA and a LoRA": Case([LoRA(rank=4, init="pissa"), LoRA(rank=4)]),
    "state in slices": Case(PACK, sliced=True),
    "state in slices, clipped, two passes a step": Case(PACK, clip=0.05, passes=2, rows=(9, 7), sliced=True),
    "state in slices, PiSSA and DoRA": Case([LoRA(rank=4, init="pissa"), LoRA(rank=3, dora=True)], sliced=True),
    "state in slices, A and B at other rates": Case(
        [LoRA(rank=3, b_rate=4.0, targets=("attention",))] * 2, sliced=True
    ),
    "FullFT of a mixture, balanced": Case([FullFT()], "qwen3_moe", engine=_BALANCED),
    "one LoRA, balanced": Case(
        [LoRA(rank=4, targets=("mlp", "router"))], "qwen3_moe", engine=_BALANCED, rows=(9, 3, 2, 1)
    ),
    "two LoRAs, balanced": Case([LoRA(rank=4, targets=("mlp", "router"))] * 2, "qwen3_moe", engine=_BALANCED),
    "LoRAs on experts": Case([LoRA(rank=4), LoRA(rank=2, convention="shared-outer")], "qwen3_moe"),
}
_PARTS = {"base_in_parts": True}
_EVERYWHERE = ("attention", "mlp", "unembedding")
_LAST = ("re:layers.1.",)
IN_PARTS: dict[str, Case] = {
    "three LoRAs": Case(PACK, engine=_PARTS),
    "three LoRAs, bfloat16": Case(PACK, engine={**_PARTS, "precision": "bfloat16"}, steps=3),
    "three LoRAs, activations computed twice": Case(PACK, engine={**_PARTS, "checkpoint_activations": True}, steps=3),
    "LoRAs of shared prompts": Case(PACK[:2], engine=_PARTS, prompts=True, steps=3),
    "LoRA with dropout": Case([LoRA(rank=4, dropout=0.1)], engine=_PARTS, steps=3),
    "DoRA": Case([LoRA(rank=4, dora=True)], engine=_PARTS, steps=3),
    "PiSSA and OLoRA": Case([LoRA(rank=4, init="pissa"), LoRA(rank=4, init="olora")], engine=_PARTS, steps=3),
    "unembedding of its own": Case([LoRA(rank=4, targets=_EVERYWHERE), LoRA(rank=2)], "llama", engine=_PARTS),
    "shared embedding": Case([LoRA(rank=4, targets=_EVERYWHERE), LoRA(rank=2)], "qwen3", engine=_PARTS),
    "unembedding alone": Case([LoRA(rank=4, targets=("unembedding",))] * 2, "llama", engine=_PARTS, steps=3),
    "other layers": Case([LoRA(rank=4), LoRA(rank=4, targets=_LAST)], "llama", engine=_PARTS),
    "experts": Case([LoRA(rank=4), LoRA(rank=2, convention="shared-outer")], "qwen3_moe", engine=_PARTS),
    "router": Case([LoRA(rank=4, targets=("experts", "router"))] * 2, "qwen3_moe", engine=_PARTS, steps=3),
    "logits by the base": Case([LoRA(rank=4)] * 2, "gemma2", engine=_PARTS, steps=3),
    "one row a pass": Case([LoRA(rank=4), LoRA(rank=2)], "llama", engine=_PARTS, alone=True, steps=3),
    "FullFT": Case([FullFT()], engine=_PARTS, steps=3),
    "FullFT, bfloat16": Case([FullFT()], engine={**_PARTS, "base_trains": True, "precision": "bfloat16"}),
}
"""The same with a base that lies in parts."""
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
    """Numbers of the trained weights that this process holds, as of their optimizer's state."""
    base: int
    """Numbers of the base that it holds."""
    state: int
    """Bytes that the optimizers keep on it, counted by storages."""


def engine_of(case: Case, ranks: Ranks) -> Engine:
    base = load_base(resolve("tiny")) if case.base == "tiny" else small_base(case.base)
    if case.engine.get("balance_experts"):
        base.model.config.router_aux_loss_coef = BALANCE
    engine = Engine(base, device="cpu", ranks=ranks, **{"precision": "float32", **case.engine})
    if case.alone:
        engine._take(PATHS[-1])
    add_policies(engine, case)
    return engine


def add_policies(engine: Engine, case: Case) -> None:
    """Those of a case, by the names p0, p1, …"""
    with patch.object(optimizer, "SLICED_BYTES", 0 if case.sliced else optimizer.SLICED_BYTES):
        for number, method in enumerate(case.methods):
            engine.add_policy(f"p{number}", method, seed=number)


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


def train(name: str, folder: Path, halves: int = 0, state: Path | None = None, *, parts: bool = False) -> Trained:
    """`halves`: one process alone that computes in passes what so many ranks compute at once. `state`: a folder of an
    earlier training, which is gone on with. `parts`: a case of `IN_PARTS`."""
    case = (IN_PARTS if parts else CASES)[name]
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
        for turn in range(case.passes):
            own = {one: batch.select(range(turn, batch.rows, case.passes)) for one, batch in batches.items()}
            for found in _passes(engine, own, halves, case):
                total += torch.stack([found[one].loss if one in found else torch.zeros(()) for one in names])
        losses.append(total.tolist())
        if step == 1:  # what this gathers of the weights is old after the step
            engine.evaluate(names, held_out[:2])
            engine.sample({names[-1]: [[2, 3], [4]]}, SamplingParams(max_tokens=2))
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
        sum(here(weight.detach()).numel() for weight in engine.model.parameters()),
        _kept_bytes(engine),
    )


def _kept_bytes(engine: Engine) -> int:
    kept = [here(value) for policy in engine.policies.values() for value in policy.optimizer.state().values()]
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage() for value in kept if value.ndim}
    return sum(storage.nbytes() for storage in storages.values())


def _passes(engine: Engine, batches: Mapping[str, Batch], halves: int, case: Case) -> list[Any]:
    if not halves:
        return [engine.forward_backward(batches)]
    names = list(batches)
    in_parts = bool(case.engine.get("base_in_parts"))
    apart = engine._slots.separable(names, engine.model, in_step=in_parts) and not (in_parts and case.alone)
    dealing = Dealing.of(batches, engine._slots.order(names), halves, apart=apart)
    return [engine.forward_backward(dealing.own(batches, rank)) for rank in range(halves)]


def train_all(folder: Path, asked: Sequence[tuple[str, Path | None]], parts: bool = False) -> list[Trained]:
    """One case after the other on these ranks, from a state or from the start."""
    found = []
    for place, (name, state) in enumerate(asked):
        own = folder / f"case{place}"
        own.mkdir(exist_ok=True)
        found.append(train(name, own, state=state, parts=parts))
    return found
