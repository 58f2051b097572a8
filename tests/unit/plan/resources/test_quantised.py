"""What the plan counts of a base in four bits is what an engine holds."""

from __future__ import annotations

import pytest
import torch

from lowregret.models.four_bit import FourBitWeight, pack, stored_bytes
from lowregret.models.load import load_base, resolve
from lowregret.plan.placement import place
from lowregret.plan.resources.cost import run_cost
from lowregret.plan.resources.hardware import find_hardware
from lowregret.plan.resources.memory import memory
from lowregret.plan.resources.parts import divisible
from lowregret.plan.resources.quantised import NF4_BYTES, packed_numbers, unpacked_bytes
from lowregret.plan.shapes.lookup import find_model
from lowregret.spec import FullFT, LoRA

PLAIN, NF4 = LoRA(rank=16), LoRA(rank=16, quantisation="nf4")


def test_the_bytes_of_the_bundled_base() -> None:
    pytest.importorskip("bitsandbytes")
    shapes, model = find_model("tiny"), load_base(resolve("tiny")).model
    before = sum(map(stored_bytes, model.parameters()))
    pack(model, torch.device("cpu"))
    packed = [weight for weight in model.parameters() if isinstance(weight, FourBitWeight)]
    numbers = packed_numbers(shapes, NF4)
    assert numbers == sum(weight.numel() for weight in packed)
    assert sum(weight.packed_bytes for weight in packed) == pytest.approx(NF4_BYTES * numbers, rel=0.01)
    one, other = (memory(shapes, method, rows=1, length=64, hardware=None).weights for method in (PLAIN, NF4))
    saved = before - sum(map(stored_bytes, model.parameters()))
    assert saved == pytest.approx((4 - NF4_BYTES) * numbers, rel=0.01)
    assert one - other == pytest.approx((2 - NF4_BYTES) * numbers, rel=0.01)


def test_an_eight_billion_base_takes_five_gigabytes_less_than_half() -> None:
    shapes = find_model("llama-3.1-8b")
    assert packed_numbers(shapes, PLAIN) == packed_numbers(shapes, FullFT()) == 0
    assert packed_numbers(shapes, NF4) == pytest.approx(6.98e9, rel=0.01)
    plain, quantised = (memory(shapes, method, rows=1, length=512).weights for method in (PLAIN, NF4))
    assert plain - quantised == pytest.approx((2 - NF4_BYTES) * 6.98e9, rel=0.01)
    assert unpacked_bytes(shapes, NF4, 2) == 2 * 4096 * 14336


def test_experts_are_unpacked_a_layer_at_a_time() -> None:
    shapes = find_model("Qwen3-30B-A3B")
    assert unpacked_bytes(shapes, NF4, 2) == pytest.approx(2 * 128 * 3 * 2048 * 768, rel=0.01)


def test_unpacking_takes_time() -> None:
    shapes, device = find_model("llama-3.1-8b"), find_hardware("H100 SXM 80GB")
    plain, quantised = (
        run_cost(shapes, method, device, rows=8, steps=1, length=512).step_seconds for method in (PLAIN, NF4)
    )
    assert plain < quantised < 1.1 * plain


def test_it_lies_whole_on_each_device() -> None:
    shapes = find_model("llama-3.1-70b")
    found = place(NF4, 8, lambda mesh: 10**12 // mesh.shard, 80 * 10**9, divisible(shapes))
    assert (found.mesh.replicate, found.mesh.shard, found.mesh.tensor) == (8, 1, 1)
    assert not found.fits
