"""Numbers that the plan must have without torch are those of the engine."""

from __future__ import annotations

import pytest

from lowregret.data import batches
from lowregret.engine import footprint
from lowregret.lora import kernels
from lowregret.lora.bank import padded_rank
from lowregret.plan.resources import memory
from lowregret.plan.resources.activations import padded


def test_passes_and_chunks_are_as_large_as_the_engine_makes_them() -> None:
    assert memory.CPU_PASS_TOKENS == footprint.CPU_PASS_TOKENS
    assert memory.EVAL_TOKENS == batches.EVAL_TOKENS
    assert memory.CHUNK_BYTES == kernels.LEAST_CHUNK
    assert memory.CHUNK_SHARE == kernels.CHUNK_SHARE


@pytest.mark.parametrize("rank", [1, 2, 4, 5, 63, 64, 512])
def test_a_rank_is_padded_as_the_bank_pads_it(rank: int) -> None:
    assert padded(rank) == padded_rank(rank)
