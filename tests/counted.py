"""What ranks send each other in a step, counted; imported by name, and run on each rank (gloo.py)."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from lowregret.engine import AdamParams
from lowregret.engine.parallel.mesh import Ranks
from sharded import CASES, RATE, batch_of, engine_of

SENT = {"_allgather_base_": "gather", "_reduce_scatter_base_": "scatter", "allreduce_": "reduce"}


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


def steps_of(names: list[str]) -> dict[str, tuple[dict[str, int], dict[str, int]]]:
    """By case."""
    return {name: step_of(name) for name in names}
