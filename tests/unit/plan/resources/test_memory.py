"""Memory: what is counted for certain, and what it grows with; tests/oracle holds it to torch."""

from __future__ import annotations

from typing import Any

import pytest

from lowregret.plan.resources.hardware import Hardware
from lowregret.plan.resources.memory import Memory, memory, trainable
from lowregret.plan.resources.trainer import Trainer
from lowregret.plan.shapes.adapters import lora_parameters
from lowregret.plan.shapes.lookup import find_model
from lowregret.spec import FullFT, LoRA
from lowregret.spec.mesh import Mesh

CPU = Hardware("a CPU", "cpu", 2**35, 1e11, 6e10, 0.97, 5e-6, None, "made up")
LARGE = find_model("Llama-3.1-8B")
MIXTURE = find_model("Qwen3-30B-A3B")


def need(method: LoRA | FullFT, **others: Any) -> Memory:
    return memory(LARGE, method, **{"rows": 4, "length": 512} | others)


def test_full_fine_tuning_stores_sixteen_bytes_a_parameter() -> None:
    found = need(FullFT())
    assert found.weights + found.gradients + found.optimizer == 16 * LARGE.total


def test_a_lora_stores_the_base_once_and_sixteen_bytes_of_each_number_that_trains() -> None:
    lora = LoRA(rank=16)
    trained = sum(lora_parameters(LARGE, 16).values())
    found = need(lora)
    embedding = 128256 * 4096
    assert found.gradients + found.optimizer == 12 * trained
    # bfloat16, but for the embedding and the norms (65 of 4,096 numbers).
    assert found.weights == 2 * (LARGE.total + embedding + 65 * 4096) + 4 * trained
    assert need(LoRA(rank=16, init="pissa")).weights == found.weights + 4 * trained


def test_ranks_are_stored_padded_those_of_experts_too() -> None:
    assert trainable(LARGE, LoRA(rank=1)) == trainable(LARGE, LoRA(rank=4))
    assert trainable(LARGE, LoRA(rank=5)) == 2 * trainable(LARGE, LoRA(rank=4))
    # Rank 16 over 8 active experts is 2 for each, stored as 4.
    stored, used = trainable(MIXTURE, LoRA(rank=16)), lora_parameters(MIXTURE, 16)
    assert stored == 2 * used["experts"] + used["attention"] + used["unembedding"]


def test_the_total_is_the_sum() -> None:
    found = need(LoRA(rank=16))
    parts = (found.weights, found.gradients, found.optimizer, found.activations, found.logits)
    assert found.total == sum(parts) + found.context + found.fragmentation
    assert all(part >= 0 for part in parts)


@pytest.mark.parametrize("method", [LoRA(rank=16), FullFT()], ids=lambda method: method.name)
@pytest.mark.parametrize("shapes", [LARGE, MIXTURE], ids=lambda shapes: shapes.name)
def test_more_needs_more(shapes: Any, method: LoRA | FullFT) -> None:
    usual = memory(shapes, method, rows=16, length=1024).total
    assert memory(shapes, method, rows=32, length=1024).total > usual
    assert memory(shapes, method, rows=16, length=2048).total > usual
    assert memory(shapes, method, rows=16, length=1024, supervised=8).total <= usual
    assert memory(shapes, method, rows=16, length=1024, checkpoint_activations=True).total < usual
    assert memory(shapes, method, rows=16, length=1024, accumulating=True).total >= usual


def test_parts_divide_what_is_stored_and_not_what_passes() -> None:
    one, four = need(FullFT()), need(FullFT(), mesh=Mesh(shard=4))
    assert four.weights == one.weights // 4
    assert four.gradients == one.gradients // 4
    assert four.optimizer == one.optimizer // 4
    assert four.total > one.total / 4
    assert need(FullFT(), mesh=Mesh(replicate=4)) == one


def test_adapters_are_whole_over_a_base_in_parts() -> None:
    one, four = need(LoRA(rank=16)), need(LoRA(rank=16), mesh=Mesh(shard=4))
    assert (four.gradients, four.optimizer) == (one.gradients, one.optimizer)
    adapters = 4 * trainable(LARGE, LoRA(rank=16))
    assert four.weights - adapters == (one.weights - adapters) // 4


def test_copies_of_whole_matrices_last_as_long_as_the_graph() -> None:
    """bfloat16, of what was gathered: on each device as many as on one (engine: 7 of 8 copies after a forward pass of
    two ranks, none with checkpointing)."""
    matrices = sum(count for kind, count in LARGE.by_kind().items() if kind in ("attention", "mlp", "router"))
    for mesh in (Mesh(shard=2), Mesh(shard=64)):
        assert need(FullFT(), mesh=mesh).activations > 2 * matrices
    again = need(FullFT(), mesh=Mesh(shard=64), checkpoint_activations=True)
    assert again.activations < 2 * matrices
    gathered = 4 * 2 * 128256 * 4096
    assert again.activations > 2 * gathered, "embedding and unembedding, and their gradients, are whole"


def test_experts_are_copied_as_other_matrices_are() -> None:
    """engine/forward/mixture.py casts them, and their graph keeps the casts: 2 bytes each, on one device too."""
    experts = MIXTURE.by_kind()["experts"]
    for mesh in (Mesh(), Mesh(shard=8)):
        found = memory(MIXTURE, FullFT(), rows=1, length=64, mesh=mesh, accumulating=True)
        assert found.activations > 2 * experts


def test_a_tensor_group_cuts_matrices_and_what_lies_in_them() -> None:
    """All but the embedding and the norms, and of activations heads and columns of the MLPs."""
    whole, cut = 8 * 128256 * 4096, 65 * 4096
    one, two = need(LoRA(rank=16), rows=16), need(LoRA(rank=16), rows=16, mesh=Mesh(tensor=2))
    adapters = 4 * trainable(LARGE, LoRA(rank=16))
    assert two.weights - adapters == (one.weights - adapters + whole // 2 + 4 * cut) // 2
    assert 0.5 * one.activations < two.activations < 0.8 * one.activations
    assert need(FullFT(), mesh=Mesh(tensor=2)).optimizer == 8 * (LARGE.total + whole // 8 + cut) // 2


def test_experts_are_shared_by_expert_parallelism() -> None:
    def weights(mesh: Mesh) -> int:
        return memory(MIXTURE, LoRA(rank=4, targets=("attention",)), rows=1, length=64, mesh=mesh).weights

    experts = 2 * MIXTURE.by_kind()["experts"]
    assert weights(Mesh()) - weights(Mesh(expert=8)) == experts - experts // 8


@pytest.mark.parametrize("method", [LoRA(rank=16), FullFT()], ids=lambda method: method.name)
@pytest.mark.parametrize("shapes", [LARGE, MIXTURE], ids=lambda shapes: shapes.name)
@pytest.mark.parametrize("hardware", [None, CPU], ids=["gpu", "cpu"])
def test_more_parts_need_less(shapes: Any, method: LoRA | FullFT, hardware: Hardware | None) -> None:
    totals = [
        memory(shapes, method, rows=1, length=512, mesh=Mesh(shard=parts), hardware=hardware).total
        for parts in (2, 4, 8, 16)
    ]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == 4


def test_a_cpu_cuts_a_batch_into_passes_so_that_a_larger_one_needs_no_more() -> None:
    assert (
        need(LoRA(rank=16), rows=8, hardware=CPU).activations == need(LoRA(rank=16), rows=2, hardware=CPU).activations
    )
    # But gradients are there from the second pass on.
    assert need(FullFT(), rows=8, hardware=CPU).total > need(FullFT(), rows=2, hardware=CPU).total


def test_attention_that_keeps_its_scores_needs_memory_by_the_square() -> None:
    shapes = find_model("gpt-oss-20b")

    def activations(length: int) -> int:
        return memory(shapes, LoRA(rank=16, targets=("attention",)), rows=16384 // length, length=length).activations

    assert activations(8192) > 1.5 * activations(1024)


@pytest.mark.parametrize("method", [LoRA(rank=16), FullFT()], ids=lambda method: method.name)
@pytest.mark.parametrize("hardware", [None, CPU], ids=["gpu", "cpu"])
def test_what_is_computed_once_for_several_rows_is_kept_once(method: LoRA | FullFT, hardware: Hardware | None) -> None:
    """8 rows of 50 tokens behind one prompt of 150 are 550 tokens, of which 400 are supervised."""
    shared = need(method, rows=8, length=200, supervised=50, spared=7 * 150, hardware=hardware)
    assert shared == need(method, rows=1, length=550, supervised=400, hardware=hardware)
    if isinstance(method, LoRA):  # of so large a base the gradients of all weights hide so few tokens
        assert shared.total < need(method, rows=8, length=200, supervised=50, hardware=hardware).total


def test_an_adapted_unembedding_has_a_second_gradient_of_b_while_the_loss_is_known() -> None:
    """B in bfloat16 and its gradient in float32 (engine/forward/head.py): 6 bytes a number, 5 % of it lost to gaps;
    beside the copy of A and B that a pass makes (lora/bank.py)."""
    many = {"rows": 64}
    wide, narrow = (need(LoRA(rank=rank, targets=("unembedding",)), **many) for rank in (256, 128))
    stored = [found.weights + found.gradients + found.optimizer for found in (wide, narrow)]
    passing = wide.total - narrow.total - 1.05 * (stored[0] - stored[1])
    assert passing == pytest.approx(1.05 * 128 * (128256 * 6 + (128256 + 4096) * 2), rel=0.01)
    with_dora = need(LoRA(rank=128, targets=("unembedding",), dora=True), **many)
    assert with_dora.activations + with_dora.logits > narrow.activations + narrow.logits + 2 * 4 * 128256 * 4096


def test_another_trainer_stores_what_trains_its_own_way() -> None:
    """bfloat16 throughout, as PEFT's public comparison trains: 8 bytes a parameter."""
    lean = Trainer(full_bytes=2, frozen_float32=False)
    full, lora = need(FullFT(), trainer=lean), need(LoRA(rank=16), trainer=lean)
    assert full.weights + full.gradients + full.optimizer == 8 * LARGE.total
    trained = sum(lora_parameters(LARGE, 16).values())
    assert lora.weights + lora.gradients + lora.optimizer == 2 * LARGE.total + 16 * trained
