"""Which way round a processor takes the products of a step of decoding faster.

    python -m benchmarks.few_rows

All matrices of the layers of SmolLM2-135M with random numbers, and so many rows: milliseconds of x Wᵀ and of (W xᵀ)ᵀ,
in turn, medians, on one thread and on all; and of one pass over the same numbers, the least that a product can take.
`lowregret.lora.decoding` chooses by what this says.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lowregret.environment import environment
from lowregret.lora.decoding import transposed_product

SHAPES = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)] * 30
ROWS = (1, 2, 4, 8, 16, 32, 64)
REPEATS = 15

Way = Callable[[Tensor, Tensor], Tensor]
WAYS: Mapping[str, Way] = {
    "x Wᵀ": lambda x, weight: x @ weight.T,
    "(W xᵀ)ᵀ": lambda x, weight: transposed_product(x, weight.T, None),
}


def milliseconds(weights: Sequence[Tensor], rows: int) -> dict[str, float]:
    """The median of each way, taken in turn."""
    inputs = {width: torch.randn(rows, width) for width in {weight.shape[1] for weight in weights}}
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(REPEATS + 1):
        for name, way in WAYS.items():
            began = time.perf_counter()
            for weight in weights:
                way(inputs[weight.shape[1]], weight)
            taken[name].append(1e3 * (time.perf_counter() - began))
    return {name: statistics.median(own[1:]) for name, own in taken.items()}


def reading(weights: Sequence[Tensor]) -> float:
    """Milliseconds of one sum over all."""
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for weight in weights:
            weight.sum()
        taken.append(1e3 * (time.perf_counter() - began))
    return statistics.median(taken)


@torch.no_grad()
def main() -> None:
    """Print the table."""
    weights = [torch.randn(shape) for shape in SHAPES]
    cores = len(os.sched_getaffinity(0))
    print(environment()["processor"], f"{cores} cores", sep=", ")
    print(f"\n| threads | rows | read once | {' | '.join(WAYS)} |\n|---|---|---|{'---|' * len(WAYS)}")
    for threads in sorted({1, cores}):
        torch.set_num_threads(threads)
        once = reading(weights)
        for rows in ROWS:
            found = milliseconds(weights, rows)
            print(f"| {threads} | {rows} | {once:.0f} | {' | '.join(f'{each:.0f}' for each in found.values())} |")


if __name__ == "__main__":
    main()
