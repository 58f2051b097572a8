"""Multiply-adds of a training step, counted from shapes. Torch-free.

Counted are the products that a step cannot do without: the linear maps of the layers, the unembedding on supervised
positions only, attention without its upper half, and the adapters. Left out are norms, activation functions, the
optimizer, and what is computed twice. One multiply-add is two floating-point operations.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from lowregret.plan.shapes.adapters import lora_parameters
from lowregret.plan.shapes.weights import Shapes, Weight
from lowregret.spec import FullFT, LoRA

LINEAR = ("attention", "mlp", "experts", "router", "unembedding")
OUTPUT = re.compile(r"\.(o_proj|out_proj|c_proj|wo|dense|linear_out|o)\.weight$")
_STATE_PRODUCTS = 3
"""Of a head's state, a token: what it forgets and adds, and what it reads; the chunked forms do about as much."""


@dataclass(frozen=True)
class MultiplyAdds:
    """Multiply-adds of a token, on average over a row, by what they are for: the kinds of `plan.shapes`, `scores`
    (attention between positions), `states` (linear attention and Mamba) and `adapters`."""

    forward: dict[str, float]
    backward: dict[str, float]

    @property
    def total(self) -> float:
        """Forward and backward."""
        return sum(self.forward.values()) + sum(self.backward.values())


@dataclass(frozen=True)
class SharedPrefix:
    """What rows begin with that is computed once for all of a group: in RL the prompt of a problem's completions."""

    prompt: int = 0
    """Tokens, none of them supervised."""
    group: int = 1
    """Rows."""

    def spared(self, rows: int) -> int:
        """Tokens of so many rows, group by group, that are not computed again."""
        return self.prompt * (rows - math.ceil(rows / self.group))

    def for_method(self, method: FullFT | LoRA) -> SharedPrefix:
        """What is shared with this method: nothing under dropout, whose masks go by rows (`Engine.shares`)."""
        return NO_SHARED_PREFIX if isinstance(method, LoRA) and method.dropout else self


NO_SHARED_PREFIX = SharedPrefix()


def multiply_adds(shapes: Shapes, method: FullFT | LoRA, length: int, supervised_share: float = 1.0) -> MultiplyAdds:
    """Of a token in rows of `length` tokens, of which `supervised_share` are supervised.

    FullFT: W x, and the gradients of x and W: 3·d_in·d_out. LoRA: W x and the gradient of x, and three products with
    each of A and B: 2·d_in·d_out + 3R(d_in + d_out) (SCIENCE 3.9). A gradient that nobody needs is not computed: of
    what lies before the first adapter, and of the inputs of the first matrices.
    """
    full = isinstance(method, FullFT)
    adapted = _adapted(shapes, method)
    forward: dict[str, float] = {}
    backward: dict[str, float] = {}
    for weight in shapes.weights:
        if weight.kind not in LINEAR or len(weight.shape) != 2:
            continue
        share = supervised_share if weight.kind == "unembedding" else 1.0
        adds = share * weight.size * weight.active
        _add(forward, weight.kind, adds)
        _add(backward, weight.kind, 2 * adds if full else adds - share * weight.size * _spared(shapes, weight, adapted))
    for kind, parameters in adapted.items():
        share = supervised_share if kind == "unembedding" else 1.0
        used = share * parameters
        _add(forward, "adapters", used)
        _add(backward, "adapters", 2 * used)
    if isinstance(method, LoRA):
        _add(backward, "adapters", -_spared_adapters(shapes, method, adapted, supervised_share))
    scores = _scores(shapes, length)
    states = _STATE_PRODUCTS * sum(s.layers * s.heads * s.key_width * s.value_width for s in shapes.states)
    for name, adds in (("scores", scores), ("states", states)):
        if adds:
            forward[name] = adds
            backward[name] = 2 * adds * (1.0 if full else _share_with_gradients(shapes, adapted))
    return MultiplyAdds(forward, backward)


def shared_adds(
    shapes: Shapes, method: FullFT | LoRA, length: int, supervised_share: float, shared: SharedPrefix
) -> MultiplyAdds:
    """`multiply_adds` of a token that is computed, on average, where whole groups share their prompts.

    What is spared are rows of the prompt alone, none of it supervised: what lies behind attends to the one prompt as it
    would to its own.
    """
    whole, spared = multiply_adds(shapes, method, length, supervised_share), shared.spared(shared.group) / shared.group
    if not spared:
        return whole
    prompts = multiply_adds(shapes, method, shared.prompt, 0.0)

    def left(rows: dict[str, float], prompt: dict[str, float]) -> dict[str, float]:
        return {kind: (length * adds - spared * prompt[kind]) / (length - spared) for kind, adds in rows.items()}

    return MultiplyAdds(left(whole.forward, prompts.forward), left(whole.backward, prompts.backward))


def _adapted(shapes: Shapes, method: FullFT | LoRA) -> dict[str, float]:
    """Parameters of adapters that a token meets, by kind."""
    if isinstance(method, FullFT):
        return {}
    found: dict[str, float] = {}
    for kind, count in lora_parameters(shapes, method.rank, method.targets, method.convention).items():
        met = count * shapes.active_experts / shapes.experts if kind == "experts" and shapes.experts else count
        if met:
            found[kind] = met
    return found


def _add(total: dict[str, float], key: str, adds: float) -> None:
    total[key] = total.get(key, 0.0) + adds


def _reads_embedding(shapes: Shapes, weight: Weight) -> bool:
    """Whether layer 0's copy reads the embedding through a norm only."""
    inputs = weight.kind == "attention" and weight.shape[1] == shapes.hidden_size
    return 0 in weight.layers and inputs and not OUTPUT.search(weight.name)


def _spared(shapes: Shapes, weight: Weight, adapted: dict[str, float]) -> float:
    """How many copies of a frozen weight need no gradient of their input."""
    if not adapted.keys() - {"unembedding"}:
        return weight.active
    if 0 not in weight.layers:
        return 0
    copies = weight.active / len(weight.layers)
    if "attention" in adapted:
        return copies if _reads_embedding(shapes, weight) else 0
    into = weight.shape[1] == shapes.hidden_size and not OUTPUT.search(weight.name)
    return copies if weight.kind == "attention" or into else 0


def _spared_adapters(shapes: Shapes, method: LoRA, adapted: dict[str, float], supervised_share: float) -> float:
    """Aᵀ(Bᵀ g) of the first matrices: the gradient of an input that nobody needs."""
    if adapted.keys() == {"unembedding"}:
        return method.rank * shapes.hidden_size * supervised_share
    kinds = ("attention",) if "attention" in adapted else ("mlp",)
    first = [
        weight
        for weight in shapes.weights
        if weight.kind in kinds and 0 in weight.layers and len(weight.shape) == 2 and weight.kind in adapted
    ]
    return float(sum(method.rank * w.shape[1] * w.active / len(w.layers) for w in first if _spared(shapes, w, adapted)))


def _scores(shapes: Shapes, length: int) -> float:
    """Products of queries with keys and of weights with values, a token on average: half a square, or a band."""
    total = 0.0
    for group in shapes.attention:
        window = min(group.window or length, length)
        # Position t of n sees min(t, window) positions: window·n − window(window − 1)/2 pairs in all.
        pairs = window - window * (window - 1) / (2 * length)
        total += group.layers * group.heads * (group.key_width + group.value_width) * pairs
    return total


def _share_with_gradients(shapes: Shapes, adapted: dict[str, float]) -> float:
    """The share of layers whose attention has a backward pass."""
    if not adapted.keys() - {"unembedding"}:
        return 0.0
    return 1.0 if "attention" in adapted else 1.0 - 1.0 / max(shapes.layers, 1)
