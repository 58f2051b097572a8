"""Time and money of a run and of the study that would measure its regret, from counts and a device. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lowregret.plan.resources.activations import PRECISE, token_bytes, trained_shares
from lowregret.plan.resources.flops import LINEAR, NO_SHARED_PREFIX, SharedPrefix, multiply_adds, shared_adds
from lowregret.plan.resources.hardware import Hardware
from lowregret.plan.resources.memory import CPU_PASS_TOKENS, EVAL_TOKENS, tied_unembedding, trainable
from lowregret.plan.resources.trainer import ENGINE, Trainer
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import AdamW, FullFT, LoRA, OptimizerSpec
from lowregret.spec.optimizer import NUMBER_BYTES

TRAFFIC = {"cpu": 39.0, "gpu": 9.0}
"""Bytes for each byte that a pass keeps, beside matrix products: written and read, forward and backward, with its
gradient. A CPU's figures, here and below, are in bytes at the speed of its probe, a vector added to in place; they hold
caches, page faults and exponentials too. They were fitted to steps of four random Llama bases (64 to 768 hidden units,
both methods) that no check of the plan uses. A GPU's is set by the two rows of PEFT's public comparison that adapt no
matrix (0.104 and 0.105 s; docs/findings/2026-11-29-plan-beside-peft-comparison.md)."""
LOGIT_BYTES = {"cpu": 420.0, "gpu": 40.0}
"""For each logit: its softmax and what follows; a GPU's is counted."""
_FITTED_TRAFFIC = 100.0
"""Bytes that a CPU takes for each number that trains, in a step of AdamW, whose traffic is counted as 28."""
LAYER_CALLS, ADAPTER_CALLS = 120.0, 150.0 / 7
"""Small operations of a layer and of an adapted matrix in a pass, forward and backward, in units of the probe's; fitted
to the same steps, whose adapters were on seven matrices a layer."""
_CAST = PRECISE + 2
"""Bytes to cast a number from float32 to bfloat16, or back."""
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
    trainer: Trainer = ENGINE,
) -> RunCost:
    """A run of `steps` steps of `rows` rows with `length` tokens on average, of which they may share the first; and of
    `eval_tokens` in all evaluations together, which share nothing.

    Matrix products at the device's rate times its utilisation, or as fast as their weights are read, if that takes
    longer; all else at the speed of memory; and a fixed time for each small operation. A CPU does one after the other.
    A GPU is given its operations while it works: a step takes the longer of the two. Several devices share the work and
    lose nothing by it, which is optimistic. `trainer` is whose step it is, if not our engine's; it matters on a GPU.
    """
    tokens = rows * length - shared.spared(rows)
    adds = shared_adds(shapes, method, length, supervised_share, shared)
    again = sum(adds.forward.values()) if checkpoint_activations else 0.0
    cpu = hardware.kind == "cpu"
    passes = max(1, math.ceil(tokens / max(CPU_PASS_TOKENS // length * length, length))) if cpu else 1
    step_calls = _calls(shapes, method) * hardware.call_seconds
    forward = sum(multiply_adds(shapes, method, length, supervised_share).forward.values())  # shared by nobody

    def working(tokens: float, adds: float, *, reads: int, share: float, supervised: float) -> float:
        """Seconds of `tokens` in one pass: products that read the weights so many times, and all beside them."""
        products = 2 * tokens * adds / (hardware.flops_per_second * hardware.utilisation)
        read = reads * _weight_bytes(shapes, hardware, tokens) / hardware.bytes_per_second
        moved = tokens * _token_traffic(shapes, method, hardware, length, supervised, trainer)
        moved += 0.0 if cpu else _cast_traffic(shapes, method, trainer)
        return max(products, read) + share * moved / hardware.bytes_per_second

    def lasting(work: float, calls: float) -> float:
        return work + calls if cpu else max(work, calls)

    supervised = supervised_share * rows * length / tokens
    reads = (3 if isinstance(method, FullFT) else 2) + checkpoint_activations
    work = passes * working(tokens / passes, adds.total + again, reads=reads, share=1.0, supervised=supervised)
    work += _step_traffic(optimizer, method, hardware, trainer) * trainable(shapes, method) / hardware.bytes_per_second
    step = lasting(work, passes * step_calls)
    judged, chunks = 0.0, math.ceil(eval_tokens / EVAL_TOKENS)
    if chunks:
        each = working(eval_tokens / chunks, forward, reads=1, share=FORWARD_SHARE, supervised=supervised_share)
        judged = chunks * lasting(each, FORWARD_SHARE * step_calls)
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


def _calls(shapes: Shapes, method: FullFT | LoRA) -> float:
    """Small operations of a pass, forward and backward."""
    adapted = 0.0
    if isinstance(method, LoRA):
        adapted = sum(share * max(len(weight.layers), 1) for weight, share in trained_shares(shapes, method).values())
    return shapes.layers * LAYER_CALLS + adapted * ADAPTER_CALLS


def _weight_bytes(shapes: Shapes, hardware: Hardware, tokens: float) -> float:
    """Bytes of the matrices that the products of so many tokens read once."""
    wide = 4 if hardware.kind == "cpu" else 2
    matrices = (weight for weight in shapes.weights if weight.kind in LINEAR and len(weight.shape) == 2)
    return wide * sum(weight.size * min(weight.copies, weight.active * tokens) for weight in matrices)


def _token_traffic(
    shapes: Shapes, method: FullFT | LoRA, hardware: Hardware, length: int, supervised_share: float, trainer: Trainer
) -> float:
    """Bytes that a token moves, forward and backward, for all that is no matrix product, and for its adapters."""
    wide = 4 if hardware.kind == "cpu" else 2
    moved = TRAFFIC[hardware.kind] * token_bytes(shapes, method, wide, length)
    moved += LOGIT_BYTES[hardware.kind] * supervised_share * shapes.vocabulary
    if hardware.kind == "cpu" or isinstance(method, FullFT):
        return moved  # a CPU's share of adapters is in what was fitted
    for weight, share in trained_shares(shapes, method).values():
        d_out, d_in = weight.shape
        share *= supervised_share if weight.kind == "unembedding" else 1.0
        moved += share * weight.active * (trainer.adapter_in * d_in + trainer.adapter_out * d_out)
    return moved


def _cast_traffic(shapes: Shapes, method: FullFT | LoRA, trainer: Trainer) -> float:
    """Bytes that a pass moves on a GPU to cast weights that are stored in float32, and in FullFT their gradients: a
    tied unembedding twice (docs/findings/2026-11-24-plan-beside-what-happens.md), all else once."""
    counts = shapes.by_kind()
    tied = shapes.vocabulary * shapes.hidden_size if tied_unembedding(shapes) else 0
    if isinstance(method, LoRA):
        return 2 * _CAST * tied if trainer.frozen_float32 else 0.0
    if trainer.full_bytes < PRECISE:
        return 0.0
    matrices = sum(counts.get(kind, 0) for kind in ("attention", "mlp", "router", "unembedding"))
    return 2 * _CAST * matrices + 3 * _CAST * tied  # weights there, gradients back


def _step_traffic(optimizer: type[OptimizerSpec], method: FullFT | LoRA, hardware: Hardware, trainer: Trainer) -> float:
    """Bytes at the speed of memory that an optimizer's step takes for each number that trains."""
    if hardware.kind == "cpu":
        return _FITTED_TRAFFIC * optimizer.step_traffic() / AdamW.step_traffic()
    number = trainer.full_bytes if isinstance(method, FullFT) else NUMBER_BYTES
    return number * (optimizer.step_traffic() / NUMBER_BYTES + trainer.extra_passes)
