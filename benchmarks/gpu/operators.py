"""How many operators a step hands the device, by a CPU's ways and by a GPU's: `python -m benchmarks.gpu.operators`.

A GPU's time for a small step is that of its launches, and the host's to make them. They are counted here without a GPU:
each call that computes, forward, backward and update, by torch's dispatcher; views are none. The one kernel that a CPU
has not, attention over rows as they lie, is counted and answered with zeros.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from benchmarks.gpu.drawn import SMALL, Drawn, rows, uneven
from torch.utils._python_dispatch import TorchDispatchMode

from lowregret.data.batches import collate
from lowregret.engine import AdamParams, Engine
from lowregret.lora.kernels import CPU, Kernels
from lowregret.spec import LoRA

GPU = Kernels(varlen=True, grouped=True, counted=True)
LINEAR = ("attention", "mlp")
PACKS: Mapping[str, tuple[int, bool, float]] = {
    "1 LoRA": (1, True, 0.0),
    "8 LoRAs, even": (8, True, 0.0),
    "8 LoRAs, uneven": (8, False, 0.0),
    "8 LoRAs, uneven, dropout": (8, False, 0.1),
}
"""Policies, whether even, dropout."""
WIDTHS = {**SMALL, "intermediate_size": 192, "vocab_size": 512}
"""Of a base with the layers of Qwen3-0.6B: the number of calls does not depend on widths."""


class Counting(TorchDispatchMode):
    """Counts the operators that compute."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.calls[str(func)] += 1
        if func is torch.ops.torch_attn._varlen_attn.default:
            sums = torch.zeros(args[0].shape[1], args[0].shape[0])
            return torch.zeros_like(args[0]), sums, torch.zeros(2, dtype=torch.uint64)
        if func is torch.ops.torch_attn._varlen_attn_backward.default:
            return tuple(torch.zeros_like(states) for states in args[1:4])
        return func(*args, **(kwargs or {}))


def count(pack: str, kernels: Kernels, layers: int = 28, length: int = 48) -> Counter[str]:
    """Of a step in bfloat16: one pass and the update of all policies."""
    import torch.nn.attention.varlen

    policies, even, dropout = PACKS[pack]
    base = Drawn("Qwen/Qwen3-0.6B", tuple({**WIDTHS, "num_hidden_layers": layers}.items()))
    engine = Engine(base.base(torch.device("cpu")), device="cpu", precision="bfloat16")
    engine._slots.kernels = kernels
    names = [f"p{number}" for number in range(policies)]
    for number, name in enumerate(names):
        engine.add_policy(name, LoRA(rank=16, targets=LINEAR, dropout=dropout), seed=number)
    lengths = [[length] * 4] * policies if even else uneven(4, length, policies)
    batches = {name: collate(rows(own, 512, 0), 0) for name, own in zip(names, lengths, strict=True)}

    def step() -> None:
        engine.forward_backward(batches)
        engine.optim_step({name: AdamParams(1e-4) for name in names})

    for _ in range(2):  # the first makes gradients and moments
        with Counting() as found:
            step()
    return found.calls


def main() -> int:
    """A table."""
    lines: list[Sequence[str]] = [("a step of", "a CPU's ways", "a GPU's", "fewer")]
    for pack in PACKS:
        one, other = (sum(count(pack, kernels).values()) for kernels in (CPU, GPU))
        lines.append((pack, f"{one:,}", f"{other:,}", f"{one / other:.2f} ×"))
    lines.insert(1, ("---",) * 4)
    print("\n".join("| " + " | ".join(cells) + " |" for cells in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
