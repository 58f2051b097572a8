"""Where weights and trials go: a pure function of bytes, devices and trials."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.data.facts import DataFacts
from lowregret.plan.make import build_plan
from lowregret.plan.next_steps import next_steps
from lowregret.plan.placement import Placement, place
from lowregret.plan.resources.hardware import find_hardware
from lowregret.plan.resources.memory import memory, trainable
from lowregret.plan.resources.parts import divisible
from lowregret.plan.resources.traffic import step_traffic
from lowregret.plan.shapes.lookup import find_model
from lowregret.spec import FullFT, LoRA
from lowregret.spec.mesh import Divisible, Mesh
from lowregret.spec.plan import PlanSpec

FACTS = DataFacts(
    "rows.jsonl", "text", 10_000, 2_000_000, 1_000_000, 400, 512, 0, 1000, "10% of the rows", "exact", "tokenizer"
)
BASE = Divisible("a base", (32,), (8,), (1024,), 0)
LORA, GB = LoRA(rank=16), 10**9
METHODS = st.sampled_from([LORA, FullFT()])
DEVICES = st.sampled_from([1, 2, 3, 4, 6, 8, 16, 64])


def needs(base: float, layer: float = 0.0, row: float = 0.0) -> Callable[[Mesh], int]:
    """Bytes of a base that lies in parts, of a layer that is gathered, and of a row."""
    return lambda mesh: round(GB * (base / (mesh.shard * mesh.tensor) + (layer * (mesh.shard > 1) + row) / mesh.tensor))


def placed(
    method: FullFT | LoRA, devices: int, need: Callable[[Mesh], int], gigabytes: int = 80, trials: int = 3
) -> tuple[str, str, bool | None]:
    found = place(method, devices, need, gigabytes * GB, BASE, trials=trials)
    return found.kind, str(found.mesh), found.fits


@pytest.mark.parametrize(
    ("method", "devices", "trials", "need", "expected"),
    [
        (LORA, 1, 3, needs(16), ("alone", "fsdp=1", True)),
        (LORA, 2, 3, needs(16), ("packed", "replicate=2", True)),
        (LORA, 8, 3, needs(16), ("replicated", "replicate=8", True)),
        (LORA, 8, 8, needs(16), ("packed", "replicate=8", True)),
        (LORA, 2, 2, needs(140, 2), ("rank-local", "fsdp=2", True)),
        (LORA, 8, 3, needs(140, 2), ("sharded", "fsdp=8", True)),
        (LORA, 8, 3, needs(140, 100), ("sharded", "replicate=4,tensor=2", True)),
        (LORA, 8, 8, needs(140, 100), ("sharded", "replicate=4,tensor=2", True)),
        (LORA, 8, 3, needs(400, 60), ("sharded", "fsdp=4,tensor=2", True)),
        (LORA, 8, 3, needs(140, 0, 400), ("sharded", "tensor=8", True)),
        (LORA, 16, 3, needs(140, 0, 130), ("sharded", "fsdp=8,tensor=2", True)),
        (LORA, 16, 3, needs(400, 0, 200), ("sharded", "fsdp=4,tensor=4", True)),
        (LORA, 8, 3, needs(140, 0, 900), ("sharded", "tensor=8", False)),
        (FullFT(), 1, 3, needs(160), ("alone", "fsdp=1", False)),
        (FullFT(), 2, 3, needs(16), ("sharded", "fsdp=2", True)),
        (FullFT(), 8, 8, needs(160, 2), ("sharded", "fsdp=8", True)),
        (FullFT(), 8, 3, needs(160, 100), ("sharded", "fsdp=4,tensor=2", True)),
        (FullFT(), 8, 3, needs(160, 200), ("sharded", "fsdp=2,tensor=4", True)),
        (FullFT(), 6, 3, needs(160, 150), ("sharded", "fsdp=3,tensor=2", False)),
        (FullFT(optimizer="adamw8bit"), 8, 3, needs(160, 100), ("sharded", "fsdp=8", False)),
        (LoRA(rank=16, optimizer="muon"), 8, 3, needs(140, 100), ("sharded", "fsdp=8", False)),
    ],
)  # fmt: skip
def test_the_simplest_that_fits(
    method: FullFT | LoRA,
    devices: int,
    trials: int,
    need: Callable[[Mesh], int],
    expected: tuple[str, str, bool],
) -> None:
    assert placed(method, devices, need, trials=trials) == expected


@given(METHODS, DEVICES, st.integers(1, 200), st.integers(0, 20), st.integers(0, 90), st.integers(1, 80))
def test_it_takes_all_devices_and_says_whether_they_are_enough(
    method: FullFT | LoRA, devices: int, base: int, layer: int, row: int, trials: int
) -> None:
    need = needs(base, layer, row)
    found = place(method, devices, need, 80 * GB, BASE, trials=trials)
    assert found.mesh.devices == devices
    assert found.fits == (need(found.mesh) <= 80 * GB)
    assert found.why.endswith(".")
    assert ("nothing fits" in found.why) == (not found.fits)
    if found.kind in ("packed", "rank-local"):
        assert isinstance(method, LoRA)
        assert trials >= devices
    every = [Mesh(shard=devices // size, tensor=size) for size in (1, 2, 4, 8) if devices % size == 0]
    if isinstance(method, LoRA):
        every += [Mesh(replicate=mesh.shard, tensor=mesh.tensor) for mesh in every]
    if found.fits:
        assert found.mesh.tensor == min(mesh.tensor for mesh in every if need(mesh) <= 80 * GB)
    else:
        assert all(need(mesh) >= need(found.mesh) > 80 * GB for mesh in every)


@given(METHODS, DEVICES, st.integers(1, 200), st.integers(0, 90))
def test_more_memory_never_cuts_more(method: FullFT | LoRA, devices: int, base: int, row: int) -> None:
    less, more = (place(method, devices, needs(base, 1, row), size * GB, BASE) for size in (80, 160))
    assert less.fits is False or more.mesh.tensor <= less.mesh.tensor
    assert less.kind not in ("packed", "replicated") or more.mesh == less.mesh


def test_without_memory_all_fits() -> None:
    found = place(LORA, 4, needs(10**6), None, BASE)
    assert (found.kind, found.fits) == ("replicated", None)


def test_rows_are_dealt_or_trials_are() -> None:
    def rows(placement: Placement) -> int:
        return placement.rows(30)

    assert rows(place(LORA, 8, needs(16), 80 * GB, BASE)) == 4
    assert rows(place(LORA, 8, needs(16), 80 * GB, BASE, trials=8)) == 30
    assert rows(place(LORA, 8, needs(140, 100), 80 * GB, BASE)) == 8, "a tensor group computes the same rows"


def test_what_the_user_chose_is_taken_and_judged() -> None:
    found = place(LORA, 8, needs(140, 100), 80 * GB, BASE, asked=Mesh(shard=8))
    assert (found.kind, str(found.mesh), found.fits) == ("sharded", "fsdp=8", False)
    assert "as --parallel asks" in found.why


def test_the_reason_names_what_did_not_fit() -> None:
    assert place(LORA, 8, needs(140, 2), 80 * GB, BASE).why == (
        "Each of 8 devices holds one of 8 parts of the base and computes its rows; with all of it on each one row "
        "would take 140 GB of 80 GB."
    )
    cut = place(LORA, 8, needs(140, 100), 80 * GB, BASE).why
    assert "computes its rows, 2 of them the same; with whole layers one row would take 118 GB" in cut


# --- the plan -------------------------------------------------------------------------------------------------------

H100 = find_hardware("H100 SXM")


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Llama-3.3-70B-Instruct", "Qwen3-30B-A3B"])
@pytest.mark.parametrize("devices", [1, 2, 8, 16])
def test_the_plan_is_of_the_placement(name: str, devices: int) -> None:
    shapes = find_model(name)
    plan = build_plan(shapes, PlanSpec(devices=devices), facts=FACTS, hardware=H100)
    for side in (plan.lora, plan.full):
        assert side.placement.mesh.devices == devices
        assert side.fits == side.placement.fits
        assert 1 <= side.micro_batch <= side.placement.rows(plan.batch_size)
        assert (side.sent_bytes > 0) == (devices > 1)
        assert 0 <= side.waiting_share < 1
        one = memory(
            shapes, side.method, rows=side.micro_batch, length=plan.length,
            supervised=round(plan.length * FACTS.supervised_share), mesh=side.placement.mesh, hardware=H100,
            accumulating=side.micro_batch < plan.batch_size,
        )  # fmt: skip
        assert side.memory == one


def test_more_devices_take_less_time_and_one_is_as_it_was() -> None:
    shapes = find_model("Llama-3.1-8B")

    def seconds(devices: int) -> list[float]:
        request = PlanSpec(devices=devices, max_length=2048, steps=100, checkpoint_activations=True)
        plan = build_plan(shapes, request, hardware=H100)
        return [side.seconds or 0.0 for side in (plan.lora, plan.full)]

    one, eight = seconds(1), seconds(8)
    assert [few / many for few, many in zip(one, eight, strict=True)] == pytest.approx([8, 8], rel=0.15)


@pytest.mark.parametrize(("rank", "slices"), [(1, 1), (64, 8)])
def test_devices_share_the_moments_of_an_adapter_where_these_are_large(rank: int, slices: int) -> None:
    shapes = find_model("Llama-3.1-8B")
    request = PlanSpec(devices=8, method=LoRA(rank=rank))
    plan = build_plan(shapes, request, facts=FACTS, hardware=H100)
    numbers = trainable(shapes, plan.lora.method)
    assert plan.lora.memory.gradients == 4 * numbers
    assert plan.lora.memory.optimizer == pytest.approx(8 * numbers / slices, rel=1e-6)
    assert ("one of 8 parts of the adapter's moments" in plan.lora.placed) == (slices == 8)
    assert plan.as_dict()["sides"]["lora"]["placement"]["moment_parts"] == slices
    sent = 2 * 7 / 8 * 4 * numbers + (7 / 8 * 4 * numbers if slices == 8 else 0)
    assert plan.lora.sent_bytes == pytest.approx(sent)
    apart = [step_traffic(shapes, plan.lora.method, mesh).total for mesh in (Mesh(tensor=8), Mesh(expert=8))]
    assert apart == [0, 2 * 7 / 8 * 4 * numbers], "tensor and expert ranks hold other weights"


def test_a_mesh_of_the_users_is_what_is_planned() -> None:
    request = PlanSpec(devices=8, parallel="fsdp=4,tensor=2")
    plan = build_plan(find_model("Llama-3.1-8B"), request, facts=FACTS, hardware=H100)
    assert (plan.lora.fits, plan.full.fits) == (True, True)
    assert {str(side.placement.mesh) for side in (plan.lora, plan.full)} == {"fsdp=4,tensor=2"}
    assert plan.as_dict()["sides"]["lora"]["placement"]["parallel"] == "fsdp=4,tensor=2"


def test_the_command_has_the_devices_and_several_nodes_are_started_by_torchrun() -> None:
    def typed(devices: int, parallel: str | None = None) -> str:
        request = PlanSpec(devices=devices, parallel=parallel)
        plan = build_plan(find_model("Llama-3.1-8B"), request, facts=FACTS, hardware=H100)
        return " ".join(next_steps(plan)[1].replace("\\\n", "").split())

    assert "--devices" not in typed(1)
    assert typed(8).startswith("lowregret compare")
    assert "--devices 8" in typed(8)
    assert "--parallel fsdp=4,tensor=2 --devices 8" in typed(8, "fsdp=4,tensor=2")
    assert typed(16).startswith(
        "torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m lowregret compare"
    )
    assert "--devices" not in typed(16)


def test_counts_to_divide_are_those_of_the_base() -> None:
    assert divisible(find_model("Llama-3.1-8B")) == Divisible("meta-llama/Llama-3.1-8B", [32], [8], [14336], 0)
    assert divisible(find_model("Qwen3-30B-A3B")).experts == 128
