"""What ranks send each other in a step, counted; imported by name, and run on each rank (gloo.py)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from lowregret.engine import AdamParams
from lowregret.engine.parallel.mesh import Ranks
from sharded import CASES, RATE, batch_of, engine_of

SENT = {"_allgather_base_": "gather", "_reduce_scatter_base_": "scatter", "allreduce_": "reduce", "broadcast_": "tell"}


class Counts(TorchDispatchMode):
    """Bytes of the whole tensors that collectives work on, by what they do."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name = func.overloadpacket.__name__
            whole = args[1] if name == "_reduce_scatter_base_" else args[0]
            tensors = whole if isinstance(whole, (list, tuple)) else [whole]
            self.bytes[SENT.get(name, name)] += sum(tensor.nbytes for tensor in tensors)
        return func(*args, **(kwargs or {}))


class Copies(TorchDispatchMode):
    """The most copies of weights in bfloat16 that are there at once, in numbers; `shapes` are those of the weights."""

    def __init__(self, shapes: set[torch.Size]) -> None:
        super().__init__()
        self._shapes = shapes
        self._made: list[tuple[StorageWeakRef, int]] = []
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        cast = func.overloadpacket.__name__ == "_to_copy" and found.dtype is torch.bfloat16
        if cast and found.shape in self._shapes:
            made = (StorageWeakRef(found.untyped_storage()), found.numel())
            self._made = [one for one in [*self._made, made] if not one[0].expired()]
            self.most = max(self.most, sum(numbers for _, numbers in self._made))
        return found


def copies_of(checkpointing: bool) -> tuple[int, int]:
    """Of FullFT in bfloat16 on these ranks: the most numbers of weights that are copied at a time in a pass, and all
    numbers of the layers' matrices."""
    case = replace(CASES["FullFT, bfloat16"], engine={"precision": "bfloat16", "checkpoint_activations": checkpointing})
    engine = engine_of(case, Ranks.of_group("cpu"))
    weights = [
        weight for name, weight in engine.policies["p0"].weights.items() if ".layers." in name and weight.ndim == 2
    ]
    with Copies({weight.shape for weight in weights}) as copies:
        engine.forward_backward({"p0": batch_of(case, 0, 4)})
    return copies.most, sum(weight.numel() for weight in weights)


def step_of(name: str) -> tuple[dict[str, int], dict[str, int]]:
    """Of one case: bytes of a pass with gradients, and of the step after it."""
    case = CASES[name]
    engine = engine_of(case, Ranks.of_group("cpu"))
    batches = {one: batch_of(case, number, 4) for number, one in enumerate(engine.policies)}
    engine.forward_backward(batches)
    engine.optim_step(dict.fromkeys(engine.policies, AdamParams(RATE)))
    found = []
    for call in (
        lambda: engine.forward_backward(batches),
        lambda: engine.optim_step(dict.fromkeys(engine.policies, AdamParams(RATE))),
    ):
        with Counts() as counts:
            call()
        found.append(dict(counts.bytes))
    return found[0], found[1]


def counts_of(names: list[str]) -> tuple[dict[str, tuple[dict[str, int], dict[str, int]]], list[tuple[int, int]]]:
    """Steps by case, and copies without and with checkpointing."""
    return {name: step_of(name) for name in names}, [copies_of(checkpointing) for checkpointing in (False, True)]
