"""What devices send each other: the formulas, and the links that they go through. tests/laws/test_traffic.py counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.plan.resources.cost import run_cost
from lowregret.plan.resources.hardware import Hardware, catalogue, find_hardware
from lowregret.plan.resources.memory import trainable
from lowregret.plan.resources.traffic import (
    LINK_UTILISATION,
    Traffic,
    held_out_traffic,
    overlapped_seconds,
    pass_traffic,
    step_traffic,
    waiting_seconds,
)
from lowregret.plan.shapes.lookup import find_model
from lowregret.spec import FullFT, LoRA
from lowregret.spec.mesh import Mesh

LARGE = find_model("Llama-3.1-8B")
OUTSIDE = 2 * 128256 * 4096 + 4096
"""Numbers of embedding, unembedding and the last norm."""
H100 = find_hardware("H100 SXM")
NVLINK, INFINIBAND = 0.7 * 450e9, 0.7 * 50e9


def test_full_fine_tuning_in_parts_gathers_layers_twice_and_scatters_gradients_once() -> None:
    found = pass_traffic(LARGE, FullFT(), Mesh(shard=4), 2, 1000)
    layers = LARGE.total - OUTSIDE
    assert found == Traffic(pytest.approx(3 / 4 * 4 * (3 * layers + 2 * OUTSIDE)), 0, 0, 0, 0)
    forward = held_out_traffic(LARGE, FullFT(), Mesh(shard=4), 2, 1000)
    assert forward.total == pytest.approx(3 / 4 * 4 * LARGE.total)
    assert step_traffic(LARGE, FullFT(), Mesh(shard=4)).total == 0


def test_copies_in_parts_reduce_each_their_part() -> None:
    found = step_traffic(LARGE, FullFT(), Mesh(replicate=2, shard=4))
    assert found == Traffic(0, pytest.approx(2 * 1 / 2 * 4 * LARGE.total / 4), 0, 0, 0)


def test_what_tensor_or_expert_ranks_have_alike_is_reduced_in_full_fine_tuning() -> None:
    cut = step_traffic(LARGE, FullFT(), Mesh(shard=4, tensor=2))
    whole = sum(count for kind, count in LARGE.by_kind().items() if kind not in ("attention", "mlp", "unembedding"))
    assert cut == Traffic(0, 0, 0, pytest.approx(2 * 1 / 2 * 4 * whole / 4), 0)
    mixture = find_model("Qwen3-30B-A3B")
    dense = mixture.total - mixture.by_kind()["experts"]
    shared = step_traffic(mixture, FullFT(), Mesh(expert=8))
    assert shared == Traffic(0, 0, 0, 0, pytest.approx(2 * 7 / 8 * 4 * dense))


def test_a_frozen_base_in_parts_is_gathered_as_it_is_stored() -> None:
    """bfloat16 but for embedding and norms."""
    found = pass_traffic(LARGE, LoRA(rank=16), Mesh(shard=8), 2, 1000)
    embedding, norms = 128256 * 4096, 65 * 4096
    layers = LARGE.total - OUTSIDE - 64 * 4096
    expected = 2 * (2 * layers + 4 * 64 * 4096) + 2 * embedding + 4 * (embedding + 4096)
    assert norms == 64 * 4096 + 4096
    assert found.total == pytest.approx(7 / 8 * expected)


def test_adapters_are_reduced_once_a_step() -> None:
    lora = LoRA(rank=4)
    adapters = 4 * trainable(LARGE, lora)
    for mesh in (Mesh(replicate=4), Mesh(shard=4), Mesh(shard=4, tensor=2)):
        found = step_traffic(LARGE, lora, mesh)
        assert found == Traffic(0, 0, pytest.approx(2 * 3 / 4 * adapters), 0, 0)
    mixed = step_traffic(LARGE, lora, Mesh(replicate=2, shard=2, expert=2, tensor=2))
    assert mixed.data == pytest.approx(2 * 7 / 8 * adapters), "all that compute other rows"


def test_a_tensor_group_reduces_hidden_states_twice_forward_and_twice_backward() -> None:
    states = 32 * 1000 * 4096 * 2
    found = pass_traffic(LARGE, LoRA(rank=16), Mesh(tensor=4), 2, 1000)
    assert found == Traffic(0, 0, 0, pytest.approx(4 * 2 * 3 / 4 * states), 0)
    again = pass_traffic(LARGE, LoRA(rank=16), Mesh(tensor=4), 2, 1000, again=True)
    assert again.tensor == pytest.approx(5 / 4 * found.tensor), "the last region of a layer is not computed twice"
    assert held_out_traffic(LARGE, FullFT(), Mesh(tensor=4), 2, 1000).tensor == pytest.approx(found.tensor / 2)


def test_pairs_go_to_their_experts_and_back_in_either_pass() -> None:
    """Of Qwen3-30B-A3B's 48 layers each token has 8; its attention alone is cut by tensor."""
    mixture = find_model("Qwen3-30B-A3B")
    states = 48 * 1000 * 2048 * 2
    lora = LoRA(rank=4)
    found = pass_traffic(mixture, lora, Mesh(expert=4), 2, 1000)
    assert found == Traffic(0, 0, 0, 0, pytest.approx(4 * 8 * 3 / 4 * states))
    assert held_out_traffic(mixture, lora, Mesh(expert=4), 2, 1000).expert == pytest.approx(found.expert / 2)
    assert pass_traffic(mixture, lora, Mesh(tensor=4), 2, 1000).tensor == pytest.approx(2 * 2 * 3 / 4 * states)


@given(st.sampled_from([FullFT(), LoRA(rank=4)]), st.integers(1, 4), st.integers(1, 10**6))
def test_one_device_sends_nothing(method: FullFT | LoRA, wide: int, tokens: int) -> None:
    assert pass_traffic(LARGE, method, Mesh(), wide, tokens).total == 0
    assert held_out_traffic(LARGE, method, Mesh(), wide, tokens).total == 0
    assert step_traffic(LARGE, method, Mesh()).total == 0


@pytest.mark.parametrize(
    ("mesh", "shard", "tensor"),
    [
        (Mesh(shard=8), NVLINK, None),
        (Mesh(shard=16), 0.7 * 400e9, None),  # eight network adapters of a node at once
        (Mesh(shard=2, tensor=8), INFINIBAND, NVLINK),
        (Mesh(shard=4, tensor=4), 2 * INFINIBAND, NVLINK),
        (Mesh(shard=2, tensor=4), NVLINK, NVLINK),
        (Mesh(tensor=16), None, 0.7 * 400e9),
    ],
)
def test_a_collective_goes_through_the_slowest_link_of_its_ranks(
    mesh: Mesh, shard: float | None, tensor: float | None
) -> None:
    traffic = Traffic(7e9 if shard else 0, 0, 0, 5e9 if tensor else 0, 0)
    assert overlapped_seconds(traffic, mesh, H100) == pytest.approx(7e9 / shard if shard else 0)
    assert waiting_seconds(traffic, mesh, H100) == pytest.approx(5e9 / tensor if tensor else 0)


def test_every_device_has_links_and_none_to_other_nodes_is_faster() -> None:
    """A figure in both directions would be above the newest NVLink's in one."""
    assert 0.5 < LINK_UTILISATION < 1
    for device in catalogue():
        assert 1e10 <= device.link_bytes_per_second <= 9e11
        assert 1e9 <= device.network_bytes_per_second < device.link_bytes_per_second
        assert "link: " in device.source
        assert "network: " in device.source


# --- in a step ------------------------------------------------------------------------------------------------------


def step(hardware: Hardware, method: FullFT | LoRA, mesh: Mesh, **more: Any) -> Any:
    options = {"rows": 64, "steps": 1, "length": 2048, "checkpoint_activations": True} | more
    return run_cost(LARGE, method, hardware, mesh=mesh, **options)


def test_what_layers_hide_costs_nothing_and_what_they_do_not_is_waited_for() -> None:
    slow = replace(H100, link_bytes_per_second=1e9)
    fast, held_up = (step(device, FullFT(), Mesh(shard=8)) for device in (H100, slow))
    assert fast.waiting_seconds == 0
    assert fast.sent_bytes == held_up.sent_bytes > 0
    assert held_up.step_seconds == pytest.approx(held_up.sent_bytes / (0.7 * 1e9))
    assert held_up.waiting_seconds == pytest.approx(held_up.step_seconds - fast.step_seconds)
    cut = step(H100, LoRA(rank=16), Mesh(tensor=8))
    assert cut.waiting_seconds == pytest.approx(cut.sent_bytes / NVLINK)


def test_every_pass_gathers_the_base_again() -> None:
    one, four = (step(H100, LoRA(rank=16), Mesh(shard=8), passes=passes).sent_bytes for passes in (1, 4))
    each = pass_traffic(LARGE, LoRA(rank=16), Mesh(shard=8), 2, 0).total
    assert four - one == pytest.approx(3 * each)


def test_dealt_rows_are_faster_and_own_trials_are_not() -> None:
    lora = LoRA(rank=16)
    alone = step(H100, lora, Mesh())
    dealt, own = (step(H100, lora, Mesh(replicate=8), deals_rows=flag) for flag in (True, False))
    assert dealt.step_seconds == pytest.approx(alone.step_seconds / 8, rel=0.05)
    assert own.step_seconds - own.waiting_seconds == pytest.approx(alone.step_seconds)
    assert own.sent_bytes == dealt.sent_bytes > alone.sent_bytes == 0
    assert own.money == pytest.approx(alone.money, rel=0.01)
    assert dealt.money == pytest.approx(alone.money, rel=0.05)


def test_rows_of_fewer_than_devices_are_no_faster_on_more() -> None:
    four, eight = (step(H100, LoRA(rank=16), Mesh(replicate=n), rows=4).step_seconds for n in (4, 8))
    assert eight >= four
