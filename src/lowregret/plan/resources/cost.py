"""Time and money of a run and of the study that would measure its regret, from counts and a device. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lowregret.plan.resources.activations import token_bytes
from lowregret.plan.resources.flops import NO_SHARED_PREFIX, SharedPrefix, multiply_adds, shared_adds
from lowregret.plan.resources.hardware import Hardware
from lowregret.plan.resources.memory import CPU_PASS_TOKENS, EVAL_TOKENS, trainable
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import AdamW, FullFT, LoRA, OptimizerSpec

TRAFFIC = {"cpu": 39.0, "gpu": 6.0}
"""Bytes for each byte that a pass keeps, beside matrix products: written and read, forward and backward, with its
gradient. A CPU's figures, here and below, are in bytes at the speed of its probe, a vector added to in place; they hold
caches, page faults and exponentials too. They were fitted to steps of four random Llama bases (64 to 768 hidden units,
both methods) that no check of the plan uses. A GPU's are counted, not measured."""
LOGIT_BYTES = {"cpu": 420.0, "gpu": 40.0}
"""For each logit: its softmax and what follows."""
_FITTED_TRAFFIC = {"cpu": 100.0, "gpu": 28.0}
"""Bytes for each number that trains, in a step of AdamW, whose traffic is counted as 28."""
CALLS = {"lora": 270.0, "full": 120.0}
"""Small operations a layer and pass, forward and backward, in units of the probe's; fitted to the same steps."""
FORWARD_SHARE = 1 / 3
"""Of a pass's time beside products that its forward half takes."""
SEARCH_TRIALS = 6
"""Trials of a search for one method's learning rate: five in most, seven at the most, in the studies so far."""
PRUNED_SHARE = 0.15
"""Of a search's steps that stopping early saves: 0.1 to 0.3 in the studies so far, as in
docs/findings/2026-11-24-demo-on-packs.md."""


@dataclass(frozen=True)
class RunCost:
    """What one training costs."""

    step_seconds: float
    seconds: float
    """Steps and held-out evaluations."""
    money: float | None
    """Dollars; None without a price."""


@dataclass(frozen=True)
class StudyCost:
    """What it costs to measure the regret: `lowregret compare`."""

    trials: int
    seconds: float
    money: float | None
    packing: float
    """How many times as fast LoRA trials are in one pack as one after another; 1 where none is expected."""


def run_cost(
    shapes: Shapes,
    method: FullFT | LoRA,
    hardware: Hardware,
    *,
    rows: int,
    steps: int,
    length: int,
    supervised_share: float = 1.0,
    shared: SharedPrefix = NO_SHARED_PREFIX,
    eval_tokens: float = 0.0,
    checkpoint_activations: bool = False,
    price_per_hour: float | None = None,
    shards: int = 1,
    optimizer: type[OptimizerSpec] = AdamW,
) -> RunCost:
    """A run of `steps` steps of `rows` rows with `length` tokens on average, of which they may share the first; and of
    `eval_tokens` in all evaluations together, which share nothing.

    Matrix products at the device's rate times its utilisation, all else at the speed of memory, and a fixed time for
    each small operation: a model so small that its products take no time takes that. Several devices share the work
    and lose nothing by it, which is optimistic.
    """
    tokens = rows * length - shared.spared(rows)
    adds = shared_adds(shapes, method, length, supervised_share, shared)
    again = sum(adds.forward.values()) if checkpoint_activations else 0.0
    passes = (
        max(1, math.ceil(tokens / max(CPU_PASS_TOKENS // length * length, length))) if hardware.kind == "cpu" else 1
    )
    rate = hardware.flops_per_second * hardware.utilisation
    beside = _beside_products(shapes, method, hardware, length, supervised_share * rows * length / tokens)
    calls = shapes.layers * CALLS["full" if isinstance(method, FullFT) else "lora"] * hardware.call_seconds
    step = tokens * (2 * (adds.total + again) / rate + beside) + passes * calls
    step += _step_traffic(optimizer, hardware) * trainable(shapes, method) / hardware.bytes_per_second
    forward = sum(multiply_adds(shapes, method, length, supervised_share).forward.values())  # shared by nobody
    beside = _beside_products(shapes, method, hardware, length, supervised_share)
    judged = eval_tokens * (2 * forward / rate + FORWARD_SHARE * beside)
    judged += math.ceil(eval_tokens / EVAL_TOKENS) * FORWARD_SHARE * calls
    seconds = (steps * step + judged) / shards
    price = hardware.price_per_hour if price_per_hour is None else price_per_hour
    return RunCost(step / shards, seconds, None if price is None else seconds * shards * price / 3600)


def study_cost(lora: RunCost, full: RunCost, *, seeds: int = 3, packing: float = 1.0) -> StudyCost:
    """What `compare` of one LoRA with FullFT costs: a search for each method's rate, then the other seeds of the best.

    `packing` divides the time of LoRA trials; those of FullFT run one after another.
    """
    each = SEARCH_TRIALS * (1 - PRUNED_SHARE) + seeds - 1
    share = lora.seconds / packing + full.seconds
    money = None
    if lora.money is not None and full.money is not None:
        money = each * (lora.money / packing + full.money)
    return StudyCost(2 * (SEARCH_TRIALS + seeds - 1), each * share, money, packing)


def packing_gain(shapes: Shapes, lora: LoRA, hardware: Hardware, *, rows: int, length: int, members: int = 3) -> float:
    """How many times as fast `members` trials are in one pack as one after another.

    A pack shares what a pass costs whatever its size, the small operations; the products stay what they are.
    """
    alone = run_cost(shapes, lora, hardware, rows=rows, steps=1, length=length).step_seconds
    together = run_cost(shapes, lora, hardware, rows=members * rows, steps=1, length=length).step_seconds
    return max(1.0, members * alone / together)


def _step_traffic(optimizer: type[OptimizerSpec], hardware: Hardware) -> float:
    """Bytes at the speed of memory that an optimizer's step takes for each number that trains."""
    return _FITTED_TRAFFIC[hardware.kind] * optimizer.step_traffic() / AdamW.step_traffic()


def _beside_products(
    shapes: Shapes, method: FullFT | LoRA, hardware: Hardware, length: int, supervised_share: float
) -> float:
    """Seconds of a token, forward and backward, for all that is no matrix product."""
    wide = 4 if hardware.kind == "cpu" else 2
    moved = TRAFFIC[hardware.kind] * token_bytes(shapes, method, wide, length)
    moved += LOGIT_BYTES[hardware.kind] * supervised_share * shapes.vocabulary
    return moved / hardware.bytes_per_second
