"""How much memory training takes on our engine, counted from shapes. Torch-free.

The engine keeps frozen weights once and gives them no gradient, keeps x and x Aᵀ of an adapted matrix and not its
output, never holds all logits, and lays rows end to end without padding (docs/guides/engine.md). Measured constants
say so; docs/findings/2026-11-24-plan-beside-what-happens.md has the measurements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from lowregret.plan.resources.activations import PRECISE, inner_width, padded, token_bytes
from lowregret.plan.resources.hardware import Hardware
from lowregret.plan.resources.parts import Gathered, cast_numbers, gathered, held
from lowregret.plan.resources.quantised import NF4_BYTES, packed_numbers, unpacked_bytes
from lowregret.plan.resources.stepping import Stepping, stepping
from lowregret.plan.resources.trainer import ENGINE, Trainer
from lowregret.plan.shapes.adapters import chosen, lora_parameters, ranks_of
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import AdamW, FullFT, LoRA, OptimizerSpec
from lowregret.spec.mesh import Mesh

CPU_PASS_TOKENS = 1024
"""Tokens of a pass on a CPU, at most (engine/footprint.py); a longer row is a pass of its own."""
EVAL_TOKENS = 4096
"""Tokens of a held-out pass (data/batches.py)."""
CHUNK_BYTES = 128 * 2**20
"""Of the logits that are there at once, at least (lora/kernels.py)."""
CHUNK_SHARE = 64
"""A GPU has this many times as much memory as they take, if that is more."""
CPU_PROCESS = 445_000_000
"""Python, torch and transformers with their libraries, resident: measured."""
CPU_HEAP = 0.45
"""Of what a pass takes (in FullFT gradients too, which go after each step), a CPU's heap holds so much more: tensors of
some MB are freed in another order than they came. Measured with glibc on bases of 192 to 768 hidden units that no check
of the plan uses: 0.27 to 0.58."""
CUDA_CONTEXT = 500_000_000
"""CUDA's context with the kernels that are loaded: 0.3 to 0.6 GB by device and driver; assumed, not measured here."""
GPU_FRAGMENTATION = 0.05
"""Share of all else that torch's allocator holds on a GPU and nobody uses; assumed, not measured here."""

ONE_DEVICE = Mesh()


@dataclass(frozen=True)
class Memory:
    """Bytes on each device at the peak of a run, evaluations included."""

    weights: int
    """The base, and the adapter or the copies in another type that training adds."""
    gradients: int
    optimizer: int
    """What it keeps from step to step: of AdamW two moments, float32; and what else the method's own keeps."""
    activations: int
    """What a pass keeps until its backward pass, and the temporaries of the widest layer."""
    logits: int
    context: int
    """The process's libraries on a CPU, CUDA's context on a GPU."""
    fragmentation: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(getattr(self, field.name) for field in fields(self))


def memory(
    shapes: Shapes,
    method: FullFT | LoRA,
    *,
    rows: int,
    length: int,
    supervised: int | None = None,
    spared: int = 0,
    checkpoint_activations: bool = False,
    offload_activations: bool = False,
    accumulating: bool = False,
    mesh: Mesh = ONE_DEVICE,
    hardware: Hardware | None = None,
    optimizer: type[OptimizerSpec] = AdamW,
    trainer: Trainer = ENGINE,
) -> Memory:
    """Training with `rows` rows of `length` tokens at once, `supervised` of them supervised in each (all when None);
    `spared` of all their tokens are computed once for several rows, and are not computed again.

    On a CPU (`hardware.kind`) all is float32 and a pass has at most CPU_PASS_TOKENS tokens; else products are bfloat16,
    and without `hardware` a GPU is meant. `accumulating`: a step has several passes, so that gradients are there from
    the start of the later ones; on a CPU that follows from the tokens. Each device of a `mesh` holds its part of the
    base, of FullFT's gradients and of its optimizer's state; adapters are whole. `rows` are those of one device. A
    method that names an optimizer of its own is stepped by that, every other by `optimizer`. Of another `trainer` only
    what stays from step to step is counted its way; activations and logits are our engine's.
    """
    cpu = hardware is not None and hardware.kind == "cpu"
    wide = 4 if cpu else 2
    whole = tokens = rows * length - spared
    if cpu and tokens > CPU_PASS_TOKENS:
        tokens = min(max(CPU_PASS_TOKENS // length, 1) * length, whole)
        accumulating = accumulating or tokens < whole
    full = isinstance(method, FullFT)
    trained = sum(held(shapes, mesh)) if full else trainable(shapes, method)
    kept = tokens * token_bytes(shapes, method, wide, length, mesh.tensor)
    if checkpoint_activations or (offload_activations and not cpu):
        kept = _of_a_layer(shapes, kept, tokens, inputs=checkpoint_activations)
    positions = math.ceil(tokens * (1.0 if supervised is None else supervised * rows / whole))
    chunk = CHUNK_BYTES if cpu or hardware is None else max(CHUNK_BYTES, hardware.memory_bytes // CHUNK_SHARE)
    logits = _logits(shapes, positions, wide, chunk, mesh.tensor)
    step = stepping(shapes, method, optimizer, trainer)
    gradients = step.gradient * trained
    parts = gathered(shapes, method, mesh, wide)
    by_parameters: tuple[float, float, float]
    if not isinstance(method, FullFT):
        by_parameters = _of_adapter(shapes, method, wide, trained)
    elif mesh.in_parts:
        by_parameters = _gradients_in_parts(shapes, wide, mesh, parts, checkpoint_activations)
    else:
        by_parameters = _with_gradients(shapes, wide, step, round(gradients), accumulating)
    judged = EVAL_TOKENS * _forward_bytes(shapes, wide, mesh.tensor)
    peak = parts.outside + max(
        kept + logits + by_parameters[0],
        kept + tokens * _backward_bytes(shapes, wide, mesh.tensor) + by_parameters[1] + parts.ahead,
        by_parameters[2],
        max(judged + parts.ahead, _logits(shapes, EVAL_TOKENS, wide, chunk, mesh.tensor))
        + _unembedding_copy(shapes, method, wide),
    )
    peak += unpacked_bytes(shapes, method, wide)
    if full and not mesh.in_parts:  # what it has been given beside the gradients, which are counted for themselves
        peak = max(peak - gradients, 0.0)
    logits = round(min(logits, peak))
    state = step.state * trained / (1 if full else step.kind.slices(int(trained), mesh.alike))
    stored = _weights(shapes, method, wide, trained, step, trainer, mesh)
    made = Memory(int(stored), int(gradients), int(state), round(peak) - logits, logits, context=0, fragmentation=0)
    if cpu:
        passing = peak + (gradients if full else 0)
        return replace(made, context=CPU_PROCESS, fragmentation=round(CPU_HEAP * passing))
    return replace(made, context=CUDA_CONTEXT, fragmentation=round(GPU_FRAGMENTATION * made.total))


def _of_adapter(shapes: Shapes, method: LoRA, wide: int, trained: float) -> tuple[float, float, float]:
    """What a LoRA keeps by its numbers and not by tokens: at the loss, in the backward pass, and alone.

    A pass has the adapter in the type of products too (lora/bank.py), but for one that keeps its start.
    """
    cast = 0 if method.residual or wide == PRECISE else round(wide * trained)
    buffers = _unembedding_buffers(shapes, method, wide) + cast
    return _unembedding_copy(shapes, method, wide) + buffers, buffers, 0.0


def _of_a_layer(shapes: Shapes, kept: float, tokens: float, *, inputs: bool) -> float:
    """Bytes of activations of the layer at work, and the `inputs` of all where they are not on the host."""
    return kept / max(shapes.layers, 1) + inputs * tokens * shapes.layers * shapes.hidden_size * PRECISE


def trainable(shapes: Shapes, method: FullFT | LoRA) -> int:
    """Numbers that train as they are stored: ranks padded, on experts those of the convention."""
    if isinstance(method, FullFT):
        return shapes.total
    counts = lora_parameters(shapes, method.rank, method.targets, method.convention)
    each = ranks_of(shapes, method.rank, method.convention)
    experts = counts.pop("experts", 0)
    return sum(counts.values()) // method.rank * padded(method.rank) + experts // each * padded(each)


def _weights(
    shapes: Shapes, method: FullFT | LoRA, wide: int, trained: float, step: Stepping, trainer: Trainer, mesh: Mesh
) -> float:
    """Bytes of the base and the adapter: an adapter is float32, and so is what is no matrix of a frozen base."""
    if isinstance(method, FullFT):
        return step.number * trained
    matrices, rest = held(shapes, mesh)
    if not trainer.frozen_float32:
        matrices, rest = matrices + rest, 0.0
    packed = packed_numbers(shapes, method)
    matrices -= packed
    # An adapter that starts as a part of its matrix keeps that start (lora/bank.py).
    return NF4_BYTES * packed + wide * matrices + PRECISE * (rest + trained * (2 if method.residual else 1))


def tied_unembedding(shapes: Shapes) -> bool:
    """Whether the unembedding is the embedding."""
    return any(weight.kind == "unembedding" and weight.tied for weight in shapes.weights)


def _unembedding_copy(shapes: Shapes, method: FullFT | LoRA, wide: int) -> int:
    """Bytes of the unembedding in the type of products, while it is at work, where it is stored in float32."""
    stored_wide = isinstance(method, LoRA) and not tied_unembedding(shapes)
    return 0 if wide == PRECISE or stored_wide else wide * shapes.vocabulary * shapes.hidden_size


def _unembedding_buffers(shapes: Shapes, method: LoRA, wide: int) -> int:
    """Bytes of what the loss makes for an adapted unembedding before its backward pass (engine/forward/head.py): B in
    the type of products, and B's gradient in float32 before it is added to the bank's; under DoRA the scaled matrix
    and its gradient as well."""
    if not any(weight.kind == "unembedding" for weight, _ in chosen(shapes, method.targets)):
        return 0
    width = padded(method.rank) + (shapes.hidden_size if method.dora else 0)
    copy = wide if wide < PRECISE else 0
    return shapes.vocabulary * (width * (PRECISE + copy) + (PRECISE * shapes.hidden_size if method.dora else 0))


def _with_gradients(
    shapes: Shapes, wide: int, step: Stepping, gradients: int, accumulating: bool
) -> tuple[float, float, float]:
    """Bytes of gradients, and of weights in another type, at three moments of FullFT: when the loss is known, when the
    backward pass has begun, and when it is done, with what the optimizer then works in.

    Gradients of a step's first pass appear as activations go; the unembedding's is there first. A tied one is summed
    with the embedding's: three of that size at once. Copies of the layers' matrices last as long as the graph; narrow
    weights need none, but the unembedding's gradient is summed in float32 first.
    """
    numbers, narrow = shapes.vocabulary * shapes.hidden_size, step.number < PRECISE
    one = min(step.number, PRECISE) * numbers
    before = gradients if accumulating else 0
    rest = one * ((3 if accumulating else 2) if tied_unembedding(shapes) else (1 if accumulating else 0))
    copies = wide * round(cast_numbers(shapes, ONE_DEVICE)) if wide < PRECISE and not narrow else 0
    summed = PRECISE * numbers if narrow else _unembedding_copy(shapes, FullFT(), wide)
    begun = before + one + copies
    stepped = step.working(inside=tied_unembedding(shapes)) if step.in_backward else 0  # a tied one's turn is the last
    return begun + summed, begun + stepped, gradients + max(rest, step.working())


def _gradients_in_parts(
    shapes: Shapes, wide: int, mesh: Mesh, parts: Gathered, checkpointing: bool
) -> tuple[float, float, float]:
    """`_with_gradients` where each device keeps its parts of all gradients, which are counted for themselves.

    A layer's gradients are whole until they are scattered, from a copy that is laid out by ranks; those outside of the
    layers until the pass's end. Autocast copies what was gathered, so its copies are whole, and last as long as the
    graph: of the layer at work alone, where activations are computed again.
    """
    one = PRECISE * shapes.vocabulary * shapes.hidden_size / (1 if tied_unembedding(shapes) else mesh.tensor)
    copies = wide * cast_numbers(shapes, mesh) if wide < PRECISE else 0.0
    copies /= max(shapes.layers, 1) if checkpointing else 1
    before = one + copies
    return before + _unembedding_copy(shapes, FullFT(), wide), before + parts.ahead, 2 * parts.outside


def _logits(shapes: Shapes, positions: int, wide: int, chunk_bytes: int, tensor: int = 1) -> float:
    """Bytes of logits in chunks of so many (engine/forward/head.py), and of the selected states and their gradient."""
    number = (PRECISE + (wide if wide < PRECISE else 0)) / tensor
    most = max(int(chunk_bytes // (shapes.vocabulary * number)), 1)
    chunk = math.ceil(positions / math.ceil(positions / most)) if positions else 0
    states = PRECISE + wide + (wide if wide < PRECISE else 0)
    return chunk * shapes.vocabulary * number + positions * shapes.hidden_size * states


def _backward_bytes(shapes: Shapes, wide: int, tensor: int = 1) -> float:
    """A token's share of what a layer's backward pass adds to what is kept: gradients of the product, the activation
    and up, as the product goes; those of the pairs of a mixture; and of the residual."""
    pairs = 2 * shapes.active_experts * shapes.hidden_size
    return wide * (2 * inner_width(shapes) / tensor + pairs) + 3 * PRECISE * shapes.hidden_size


def _forward_bytes(shapes: Shapes, wide: int, tensor: int = 1) -> float:
    """A token's share of what a pass without gradients holds: the residual twice, the embedding, a norm's output;
    gate, up and their product; the pairs of a mixture."""
    pairs = shapes.active_experts * shapes.hidden_size
    return wide * (3 * inner_width(shapes) / tensor + pairs) + 4 * PRECISE * shapes.hidden_size
