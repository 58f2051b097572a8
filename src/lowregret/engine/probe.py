"""What this machine's CPU does in a second, as torch uses it: `python -m lowregret.engine.probe` prints it as JSON.

It is a program of its own because a plan must not load torch (plan/resources/hardware.py runs it once and keeps the
answer).
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from lowregret.strict_json import to_json

PRODUCTS = ((1024, 576, 1536), (1024, 1536, 576), (1024, 1024, 1024))
"""m, k, n of the products timed: rows of a pass by the widths of a small base."""
COPIED = 64 * 2**20
"""Numbers in the vector that is added to itself: far more than a cache holds."""
CHAIN = 50
CALLS = 5 * CHAIN
"""Small operations of the chain: three forward and as good as two backward for each link."""
ROUNDS = 15
PAUSE = 0.03
"""Seconds."""
GLANCE_ROUNDS = 2


def probe(rounds: int = ROUNDS) -> dict[str, Any]:
    """The fields of plan.resources.hardware.Hardware, without this machine's memory. With GLANCE_ROUNDS it takes half a
    second, and whatever else runs shows in it."""
    return {
        "name": f"this CPU ({platform.machine()}, {torch.get_num_threads()} threads)",
        "kind": "cpu",
        "memory_bytes": 0,
        "flops_per_second": _product_rate(rounds),
        "bytes_per_second": _bandwidth(rounds),
        "utilisation": 0.97,
        "call_seconds": _call_seconds(rounds),
        "price_per_hour": None,
        "source": "measured here (float32): products, a vector added to itself, a chain of small operations",
    }


def _product_rate(rounds: int) -> float:
    """Floating-point operations a second, the mean over the shapes."""
    rates = []
    for m, k, n in PRODUCTS:
        a, b = torch.randn(m, k), torch.randn(k, n)
        rates.append(2.0 * m * k * n / _fastest(lambda a=a, b=b: a @ b, 8, rounds))  # type: ignore[misc]
    return statistics.mean(rates)


def _bandwidth(rounds: int) -> float:
    """Bytes a second that an operation in place reads and writes."""
    x = torch.zeros(COPIED)
    return 2.0 * 4 * COPIED / _fastest(lambda: x.add_(1.0), 1, rounds)


def _call_seconds(rounds: int) -> float:
    """Of one small operation with its share of Python and autograd."""
    x, weight = torch.randn(8, 32), torch.randn(32, 32, requires_grad=True)

    def chain() -> None:
        y = x
        for _ in range(CHAIN):
            y = y + F.silu(F.linear(y, weight)) * 0.01
        y.sum().backward()

    return _fastest(chain, 3, rounds) / CALLS


def _fastest(work: Callable[[], object], times: int, rounds: int) -> float:
    """Seconds of one call in the fastest of so many rounds, after one to warm up.

    The answer is kept (plan/resources/hardware.py): other programs slow most rounds down, and must not slow down every
    plan to come. Pauses between rounds give them time to pass.
    """
    work()
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(times):
            work()
        found.append((time.perf_counter() - start) / times)
        time.sleep(PAUSE)
    return min(found)


if __name__ == "__main__":
    print(to_json(probe()))
