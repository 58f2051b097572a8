"""The multiply-adds that one training step cannot do without, and the ratio that theory gives LoRA over FullFT.

Counted are the products of matrices: the linear maps of the layers on every token used, the unembedding on supervised
positions only, and causal attention without its upper half. Left out are norms, activation functions, softmax, the
optimizer, and whatever is computed twice. One multiply-add is two floating-point operations.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUPPORTED = ("llama", "qwen2", "qwen3")


@dataclass(frozen=True)
class Matrix:
    """A linear map of a layer; every LoRA of the benchmarks adapts all of them."""

    d_in: int
    d_out: int
    first: bool = False
    """It reads the embedding through a norm only: with both frozen, nobody needs the gradient of its input."""


@dataclass(frozen=True)
class Shapes:
    """What of a base decides the arithmetic."""

    matrices: tuple[Matrix, ...]
    layers: int
    attention: int
    """Query heads × head dimension."""
    hidden: int
    vocabulary: int


@dataclass(frozen=True)
class Row:
    """One example of a batch."""

    used: int
    """Tokens computed: those up to its last supervised prediction."""
    supervised: int


def read_shapes(folder: Path) -> Shapes:
    """The shapes of a decoder with gated MLPs, from its config.json; ValueError for one of another build."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] not in SUPPORTED:
        raise ValueError(f"{folder / 'config.json'}: model_type {config['model_type']!r}; counted are {SUPPORTED}.")
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    queries, keys = heads * head, config["num_key_value_heads"] * head
    matrices = []
    for layer in range(config["num_hidden_layers"]):
        matrices += [Matrix(hidden, out, first=layer == 0) for out in (queries, keys, keys)]
        matrices += [Matrix(queries, hidden), Matrix(hidden, inner), Matrix(hidden, inner), Matrix(inner, hidden)]
    return Shapes(tuple(matrices), config["num_hidden_layers"], queries, hidden, config["vocab_size"])


def lora_matrix(matrix: Matrix, rank: int) -> int:
    """A token's multiply-adds in one adapted matrix: 2·d_in·d_out + 3R(d_in + d_out) (SCIENCE 3.9).

    Forward: W x, A x, B(A x). Backward: Wᵀ g and Aᵀ(Bᵀ g) for the input, and the gradients of A and B, which share
    Bᵀ g with it. In a first matrix the input's gradient falls away: d_in·d_out + R(2·d_in + 3·d_out) are left.
    """
    whole = 2 * matrix.d_in * matrix.d_out + 3 * rank * (matrix.d_in + matrix.d_out)
    return whole - (matrix.d_in * matrix.d_out + rank * matrix.d_in if matrix.first else 0)


def full_matrix(matrix: Matrix) -> int:
    """3·d_in·d_out: W x, the gradient of x, and that of W. A first matrix is no exception: the embedding trains too."""
    return 3 * matrix.d_in * matrix.d_out


def attention(shapes: Shapes, rows: Sequence[Row]) -> int:
    """Scores and their product with the values, forward, and the four products of the backward pass.

    A row of n tokens has n(n + 1)/2 pairs, each of `attention` multiply-adds in every of the six products.
    """
    pairs = sum(row.used * (row.used + 1) // 2 for row in rows)
    return 6 * pairs * shapes.attention * shapes.layers


def lora_step(shapes: Shapes, rows: Sequence[Row], rank: int) -> int:
    """Multiply-adds of a LoRA step on these rows: layers, attention, and a frozen unembedding (forward and input)."""
    layers = sum(row.used for row in rows) * sum(lora_matrix(matrix, rank) for matrix in shapes.matrices)
    head = 2 * sum(row.supervised for row in rows) * shapes.hidden * shapes.vocabulary
    return layers + head + attention(shapes, rows)


def full_step(shapes: Shapes, rows: Sequence[Row]) -> int:
    """Multiply-adds of a FullFT step on these rows; the unembedding's own gradient is the third product there."""
    layers = sum(row.used for row in rows) * sum(full_matrix(matrix) for matrix in shapes.matrices)
    head = 3 * sum(row.supervised for row in rows) * shapes.hidden * shapes.vocabulary
    return layers + head + attention(shapes, rows)


def plain_ratio(shapes: Shapes, rank: int) -> float:
    """LoRA over FullFT by SCIENCE 3.9 alone: the layers' matrices, without head, attention or the first's saving."""
    lora = sum(2 * m.d_in * m.d_out + 3 * rank * (m.d_in + m.d_out) for m in shapes.matrices)
    return lora / sum(full_matrix(matrix) for matrix in shapes.matrices)


def ratio(shapes: Shapes, rows: Sequence[Row], rank: int) -> float:
    """LoRA over FullFT for the whole model on these rows."""
    return lora_step(shapes, rows, rank) / full_step(shapes, rows)


def peak_share(multiply_adds: float, seconds: float, peak_gflops: float) -> float:
    """The necessary arithmetic per second over the measured peak (GFLOP/s)."""
    return 2 * multiply_adds / seconds / (peak_gflops * 1e9)
