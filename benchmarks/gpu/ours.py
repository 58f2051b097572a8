"""The contenders on lowregret's engine: one LoRA, eight in a pack, full fine-tuning, one over a base in four bits."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from benchmarks.gpu.card import Card
from benchmarks.gpu.drawn import Drawn, rows, uneven

from lowregret.data.batches import Batch, collate, passes
from lowregret.data.example import Example
from lowregret.engine import AdamParams, Engine
from lowregret.engine.footprint import max_tokens
from lowregret.plan.resources.flops import multiply_adds
from lowregret.plan.resources.memory import memory
from lowregret.spec import FullFT, LoRA

POLICIES = 8
LINEAR = ("attention", "mlp")
SUPERVISED = 0.5
EVALUATED = 4096
"""Tokens of a held-out pass: a run's peak may be there."""


@dataclass(frozen=True)
class Size:
    """How much a contender does."""

    length: int
    """Predictions of a row, on average."""
    rows: int
    """Of a step, of all policies together."""
    warmup: int = 2
    repeats: int = 5


@dataclass(frozen=True)
class Contender:
    """One way to train."""

    label: str
    method: LoRA | FullFT
    policies: int = 1
    even: bool = True
    four_bit: bool = False

    def lengths(self, size: Size) -> list[list[int]]:
        """Predictions of each row of each policy."""
        each = max(size.rows // self.policies, 1)
        if self.even:
            return [[size.length] * each for _ in range(self.policies)]
        return uneven(each, size.length, self.policies)


LORA = LoRA(rank=16, targets=LINEAR)
CONTENDERS = (
    Contender("LoRA r16 alone", LORA),
    Contender("8 LoRAs r16, even", LORA, POLICIES),
    Contender("8 LoRAs r16, uneven", LORA, POLICIES, even=False),
    Contender("QLoRA r16 (nf4)", LORA, four_bit=True),
    Contender("FullFT", FullFT()),
)


def can_run(contender: Contender, base: Drawn, card: Card) -> str | None:
    """Why it cannot; None when it can."""
    if contender.four_bit:
        try:
            import bitsandbytes  # noqa: F401
        except ImportError:
            return "bitsandbytes is not installed"
        return None if "quantisation" in LoRA.model_fields else "this version has no method nf4"
    if isinstance(contender.method, FullFT) and card.known:
        need = memory(base.shapes, contender.method, rows=1, length=256, hardware=card.hardware).total
        if need > card.hardware.memory_bytes:
            return f"{need / 1e9:.0f} GB, by the plan"
    return None


def measure(contender: Contender, base: Drawn, card: Card, size: Size) -> dict[str, Any]:
    """Seconds of each step, tokens a second, share of the peak, bytes beside the plan's, and waits."""
    card.forget()
    method, own = contender.method, base.base(card.device)
    if contender.four_bit:
        method = method.model_copy(update={"quantisation": "nf4"})
        quantised: Any = own
        own = quantised.quantised("nf4")
    engine = Engine(own, device=str(card.device), precision="bfloat16")
    names = [f"p{number}" for number in range(contender.policies)]
    for number, name in enumerate(names):
        engine.add_policy(name, method, seed=number)
    vocabulary = int(base.values["vocab_size"])
    examples = {
        name: rows(lengths, vocabulary, number, supervised=SUPERVISED)
        for number, (name, lengths) in enumerate(zip(names, contender.lengths(size), strict=True))
    }
    batches = {name: collate(own, engine.base.pad_id) for name, own in examples.items()}
    parts = list(passes(batches, max_tokens(engine, names, longest=size.length)))
    engine.evaluate(names[:1], _evaluated(size, vocabulary))
    seconds = [_step(engine, names, parts, card) for _ in range(size.warmup + size.repeats)][size.warmup :]
    tokens = sum(batch.tokens for batch in batches.values())
    taken = {
        "label": contender.label,
        "seconds": seconds,
        "passes": len(parts),
        "tokens": tokens,
        "tokens_per_second": tokens / statistics.median(seconds),
        "peak_bytes": card.peak_bytes,
        "reserved_bytes": card.reserved_bytes,
        "kernels": str(engine._slots.kernels),
    }
    taken |= _beside_the_plan(contender, base, card, size, parts, tokens, statistics.median(seconds))
    return taken | _waits(engine, names, parts[0], card)


def _evaluated(size: Size, vocabulary: int) -> list[Example]:
    return rows([size.length] * max(EVALUATED // size.length, 1), vocabulary, 99, supervised=SUPERVISED)


def _step(engine: Engine, names: Sequence[str], parts: Sequence[Mapping[str, Batch]], card: Card) -> float:
    began = card.clock()
    for part in parts:
        engine.forward_backward(part)
    engine.optim_step({name: AdamParams(1e-4) for name in names})
    return card.clock() - began


def _beside_the_plan(
    contender: Contender,
    base: Drawn,
    card: Card,
    size: Size,
    parts: Sequence[Mapping[str, Batch]],
    tokens: int,
    seconds: float,
) -> dict[str, Any]:
    """Share of the data sheet's peak by the products that the step cannot do without; the plan's bytes of one pass."""
    if not card.known:
        return {}
    adds = multiply_adds(base.shapes, contender.method, size.length, SUPERVISED).total
    found: dict[str, Any] = {"peak_share": 2 * adds * tokens / seconds / card.hardware.flops_per_second}
    if contender.policies == 1:
        row_tokens = sum(batch.tokens for batch in parts[0].values())
        planned = memory(
            base.shapes,
            contender.method,
            rows=max(round(row_tokens / size.length), 1),
            length=size.length,
            supervised=round(SUPERVISED * size.length),
            accumulating=len(parts) > 1,
            hardware=card.hardware,
        )
        found["planned_bytes"] = planned.total - planned.context - planned.fragmentation
    return found


def _waits(engine: Engine, names: Sequence[str], part: Mapping[str, Batch], card: Card) -> dict[str, Any]:
    """Waits of a pass, which should have none, and of an update, which reads its gradients' norms at once."""
    with card.waits() as passing:
        engine.forward_backward(part)
    with card.waits() as updating:
        engine.optim_step({name: AdamParams(1e-4) for name in names})
    surprises = passing.places + updating.places[1:]
    return {"surprise_waits": len(surprises), "waits_at": sorted(set(surprises))}


def bfloat16_works(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 at all."""
    one = torch.ones(8, 8, dtype=torch.bfloat16, device=device)
    return bool((one @ one == 8).all())
