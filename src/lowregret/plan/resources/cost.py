"""Time and money of a run and of the study that would measure its regret, from counts and a device. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lowregret.plan.placement import PACK
from lowregret.plan.resources.activations import PRECISE, token_bytes, trained_shares
from lowregret.plan.resources.flops import LINEAR, NO_SHARED_PREFIX, SharedPrefix, multiply_adds, shared_adds
from lowregret.plan.resources.hardware import Hardware
from lowregret.plan.resources.memory import CPU_PASS_TOKENS, EVAL_TOKENS, ONE_DEVICE, tied_unembedding, trainable
from lowregret.plan.resources.parts import held
from lowregret.plan.resources.quantised import UNPACKED_TRAFFIC, packed_numbers
from lowregret.plan.resources.stepping import Stepping, stepping
from lowregret.plan.resources.traffic import (
    Traffic,
    held_out_traffic,
    overlapped_seconds,
    pass_traffic,
    step_traffic,
    waiting_seconds,
)
from lowregret.plan.resources.trainer import ENGINE, Trainer
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import AdamW, FullFT, LoRA, OptimizerSpec
from lowregret.spec.lean import kind_of
from lowregret.spec.mesh import Mesh
from lowregret.spec.optimizer import Muon

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
    """Dollars; None without a price. Of trials that each have a device of their own, that device's."""
    sent_bytes: float = 0.0
    """By each device in a step."""
    waiting_seconds: float = 0.0
    """Of a step, what communication adds to it."""
    judging_seconds: float = 0.0
    """Of `seconds`, all held-out evaluations together."""


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
    mesh: Mesh = ONE_DEVICE,
    deals_rows: bool = True,
    passes: int = 1,
    optimizer: type[OptimizerSpec] = AdamW,
    trainer: Trainer = ENGINE,
) -> RunCost:
    """A run of `steps` steps of `rows` rows with `length` tokens on average, of which they may share the first; and of
    `eval_tokens` in all evaluations together, which share nothing.

    Matrix products at the device's rate times its utilisation, or as fast as their weights are read, if that takes
    longer; all else at the speed of memory; and a fixed time for each small operation. A CPU does one after the other.
    A GPU is given its operations while it works: a step takes the longer of the two. `trainer` is whose step it is, if
    not our engine's; it matters on a GPU.

    The rows of a step are dealt to the devices of a `mesh` (`deals_rows`), or each device trains whole trials. Several
    devices send each other what `plan.resources.traffic` counts, weights in parts in each of `passes` passes: on a GPU
    while layers are computed, so that the longer of the two counts. Those of a tensor group share the products.
    """
    dealt = mesh.data if deals_rows else 1
    rows, eval_tokens = math.ceil(rows / dealt), eval_tokens / dealt
    tokens = rows * length - shared.spared(rows)
    at_once = 1
    if hardware.kind == "cpu":
        at_once = passes = max(1, math.ceil(tokens / max(CPU_PASS_TOKENS // length * length, length)))
    adds = shared_adds(shapes, method, length, supervised_share, shared)
    again = sum(adds.forward.values()) if checkpoint_activations else 0.0
    reads = (3 if isinstance(method, FullFT) else 2) + checkpoint_activations
    device = _Device(shapes, method, hardware, length, mesh, trainer)
    work = at_once * device.products(tokens / at_once, adds.total + again, reads)
    work += device.moving(tokens, supervised_share * rows * length / tokens, at_once)
    work += passes * reads * device.unpacking()
    stepped = sum(held(shapes, mesh)) if isinstance(method, FullFT) else trainable(shapes, method)
    own = stepping(shapes, method, optimizer, trainer)
    work += _step_traffic(own, hardware, trainer) * stepped / hardware.bytes_per_second
    work += _orthogonalised(shapes, method, own) / (hardware.flops_per_second * hardware.utilisation)
    each = pass_traffic(shapes, method, mesh, device.wide, tokens / passes, again=checkpoint_activations)
    after = step_traffic(shapes, method, mesh, optimizer)
    step = device.lasting(work, at_once, [(each, passes), (after, 1)])
    judging = device.judging(eval_tokens, supervised_share)
    seconds = steps * step + judging
    price = hardware.price_per_hour if price_per_hour is None else price_per_hour
    paid = mesh.devices if deals_rows else mesh.devices / mesh.data
    return RunCost(
        step_seconds=step,
        seconds=seconds,
        money=None if price is None else seconds * paid * price / 3600,
        sent_bytes=passes * each.total + after.total,
        waiting_seconds=step - device.lasting(work, at_once, []),
        judging_seconds=judging,
    )


def sampling_seconds(
    shapes: Shapes,
    method: FullFT | LoRA,
    hardware: Hardware,
    *,
    rows: int,
    prompt: int,
    new_tokens: int,
    mesh: Mesh = ONE_DEVICE,
) -> float:
    """Of `rows` completions, all drawn together, of which none ends before it has `new_tokens` tokens: an upper bound.

    The prompts are one pass forward; each further token is a pass of one token a row.
    """
    rows = math.ceil(rows / mesh.data)
    device = _Device(shapes, method, hardware, prompt + new_tokens, mesh, ENGINE)
    forward = sum(multiply_adds(shapes, method, prompt + new_tokens, 1.0).forward.values())
    token = device.products(rows, forward, 1) + FORWARD_SHARE * device.moving(rows, 1.0, 1)
    passes = new_tokens * device.lasting(token, FORWARD_SHARE, [])
    return device.judging(rows * prompt, 0.0) + passes


@dataclass(frozen=True)
class _Device:
    """One of those that train a method, and how long it takes for what."""

    shapes: Shapes
    method: FullFT | LoRA
    hardware: Hardware
    length: int
    mesh: Mesh
    trainer: Trainer

    @property
    def wide(self) -> int:
        """Bytes of a number in products."""
        return 4 if self.hardware.kind == "cpu" else 2

    def products(self, tokens: float, adds: float, reads: int) -> float:
        """Seconds of the matrix products of a pass, which read the weights so many times."""
        computed = 2 * tokens * adds / (self.hardware.flops_per_second * self.hardware.utilisation)
        read = reads * _weight_bytes(self.shapes, self.hardware, tokens) / self.hardware.bytes_per_second
        return max(computed, read) / self.mesh.tensor

    def moving(self, tokens: float, supervised: float, passes: int) -> float:
        """Seconds of all beside them, in so many passes."""
        moved = tokens * self._token_traffic(supervised)
        if self.hardware.kind == "gpu":
            moved += passes * _cast_traffic(self.shapes, self.method, self.trainer) / self.mesh.tensor
        return moved / self.hardware.bytes_per_second

    def unpacking(self) -> float:
        """Seconds to unpack a base in four bits once."""
        moved = UNPACKED_TRAFFIC[self.hardware.kind] * packed_numbers(self.shapes, self.method)
        return moved / self.hardware.bytes_per_second

    def lasting(self, work: float, passes: float, sent: Sequence[tuple[Traffic, int]]) -> float:
        """Seconds of passes that work so long, with their small operations and what is sent so many times."""
        calls = passes * _calls(self.shapes, self.method) * self.hardware.call_seconds
        beside = sum(times * overlapped_seconds(traffic, self.mesh, self.hardware) for traffic, times in sent)
        waiting = sum(times * waiting_seconds(traffic, self.mesh, self.hardware) for traffic, times in sent)
        together = work + calls + beside if self.hardware.kind == "cpu" else max(work, calls, beside)
        return together + waiting

    def judging(self, tokens: float, supervised_share: float) -> float:
        """Seconds of held-out passes over so many tokens, which share nothing."""
        if not tokens:
            return 0.0
        chunks = math.ceil(tokens / EVAL_TOKENS)
        forward = sum(multiply_adds(self.shapes, self.method, self.length, supervised_share).forward.values())
        work = self.products(tokens / chunks, forward, 1)
        work += FORWARD_SHARE * self.moving(tokens / chunks, supervised_share, 1) + self.unpacking()
        sent = held_out_traffic(self.shapes, self.method, self.mesh, self.wide, tokens / chunks)
        return chunks * self.lasting(work, FORWARD_SHARE, [(sent, 1)])

    def _token_traffic(self, supervised: float) -> float:
        """Bytes that a token moves, forward and backward, for all that is no matrix product, and for its adapters."""
        kind, tensor = self.hardware.kind, self.mesh.tensor
        moved = TRAFFIC[kind] * token_bytes(self.shapes, self.method, self.wide, self.length, tensor)
        moved += LOGIT_BYTES[kind] * supervised * self.shapes.vocabulary / tensor
        if kind == "cpu" or isinstance(self.method, FullFT):
            return moved  # a CPU's share of adapters is in what was fitted
        for weight, share in trained_shares(self.shapes, self.method).values():
            d_out, d_in = weight.shape
            share *= supervised if weight.kind == "unembedding" else 1.0
            moved += share * weight.active * (self.trainer.adapter_in * d_in + self.trainer.adapter_out * d_out)
        return moved


def study_cost(lora: RunCost, full: RunCost, *, seeds: int = 3, packing: float = 1.0, apart: int = 1) -> StudyCost:
    """What `compare` of one LoRA with FullFT costs: a search for each method's rate, then the other seeds of the best.

    `packing` divides the time of LoRA trials; those of FullFT run one after another. LoRA trials that each have a
    device of their own are paid for on all `apart` devices while the pack lasts.
    """
    each = SEARCH_TRIALS * (1 - PRUNED_SHARE) + seeds - 1
    share = lora.seconds / packing + full.seconds
    money = None
    if lora.money is not None and full.money is not None:
        money = each * (lora.money * apart / packing + full.money)
    return StudyCost(2 * (SEARCH_TRIALS + seeds - 1), each * share, money, packing)


def packing_gain(shapes: Shapes, lora: LoRA, hardware: Hardware, *, rows: int, length: int) -> float:
    """How many times as fast the trials of a pack are together as one after another.

    A pack shares what a pass costs whatever its size, the small operations; the products stay what they are.
    """
    alone = run_cost(shapes, lora, hardware, rows=rows, steps=1, length=length).step_seconds
    together = run_cost(shapes, lora, hardware, rows=PACK * rows, steps=1, length=length).step_seconds
    return max(1.0, PACK * alone / together)


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


def _cast_traffic(shapes: Shapes, method: FullFT | LoRA, trainer: Trainer) -> float:
    """Bytes that a pass moves on a GPU to cast weights that are stored in float32, and in FullFT their gradients: a
    tied unembedding twice (docs/findings/2026-11-24-plan-beside-what-happens.md), all else once."""
    counts = shapes.by_kind()
    tied = shapes.vocabulary * shapes.hidden_size if tied_unembedding(shapes) else 0
    if isinstance(method, LoRA):
        return 2 * _CAST * tied if trainer.frozen_float32 else 0.0
    if trainer.full_bytes < PRECISE or kind_of(method).weight_bytes() < PRECISE:
        return 0.0
    matrices = sum(counts.get(kind, 0) for kind in ("attention", "mlp", "router", "unembedding"))
    return 2 * _CAST * matrices + 3 * _CAST * tied  # weights there, gradients back


def _step_traffic(step: Stepping, hardware: Hardware, trainer: Trainer) -> float:
    """Bytes at the speed of memory that an optimizer's step takes for each number that trains."""
    if hardware.kind == "cpu":
        return _FITTED_TRAFFIC * step.traffic / AdamW.step_traffic()
    return step.traffic + step.number * trainer.extra_passes


def _orthogonalised(shapes: Shapes, method: FullFT | LoRA, step: Stepping) -> float:
    """FLOPs of Muon's iteration on the base's matrices, with m ≤ n: five times X Xᵀ, its square, and their product with
    X. Adapters are too small to count."""
    if step.kind is not Muon or isinstance(method, LoRA):
        return 0.0
    found = 0.0
    for weight in shapes.weights:
        if weight.kind in LINEAR and weight.kind != "unembedding" and len(weight.shape) == 2:
            m, n = sorted(weight.shape)
            found += weight.copies * 5 * 2 * (2 * m * m * n + m**3)
    return found
