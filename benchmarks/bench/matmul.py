"""The contender that is the machine itself: float32 products of matrices, as fast as they go here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.bench.results import timed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.bench.worker import Channel

LABEL = "matmul peak"
SHAPES = ((2048, 2048, 2048), (1700, 576, 1536), (1700, 1536, 576), (1024, 576, 49152))
"""[m, k] × [k, n]: a large square, and those of a step of SmolLM2 on 1,700 tokens."""
_SECONDS = 0.4
"""A repeat multiplies each shape for about so long."""


def run(channel: Channel) -> None:
    """Answers with {"GFLOP/s": {shape: rate}}."""
    import torch
    from benchmarks.bench.worker import clock

    operands = {shape: (torch.randn(shape[0], shape[1]), torch.randn(shape[1], shape[2])) for shape in SHAPES}
    channel.ready()
    while channel.wait() is not None:
        rates = {}
        for shape, (left, right) in operands.items():
            out = left @ right
            began, products = clock(), 0
            while (seconds := clock() - began) < _SECONDS or products < 3:
                torch.mm(left, right, out=out)
                products += 1
            rates["×".join(map(str, shape))] = 2 * shape[0] * shape[1] * shape[2] * products / seconds / 1e9
        channel.answer(gflops=rates)


def peaks(contender: Mapping[str, Any]) -> dict[str, float]:
    """{shape: median GFLOP/s}."""
    import statistics

    answers = timed(contender)
    return {shape: statistics.median(answer["gflops"][shape] for answer in answers) for shape in answers[0]["gflops"]}
