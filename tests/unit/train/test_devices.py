"""How many devices there are, and how they are arranged, before any process is started."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lowregret.engine.parallel import launch
from lowregret.errors import SpecError
from lowregret.models.load import load_config, resolve
from lowregret.plan.shapes.lookup import find_model
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import CompareSpec, DataSpec, FullFT, LoRA, TrainSpec
from lowregret.spec.mesh import Mesh
from lowregret.train.devices import arrange
from lowregret.train.prior import shapes_from

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "1"}


def tiny() -> Shapes:
    return shapes_from(load_config(resolve("tiny")), "tiny")


def spec(**fields: Any) -> TrainSpec:
    return TrainSpec(model="tiny", data=DataSpec(train="builtin:arithmetic"), **fields)


def test_torchrun_is_known_by_all_of_its_variables() -> None:
    assert launch.started_by_torchrun(TORCHRUN) == (1, 4)
    assert launch.started_by_torchrun(TORCHRUN | {"WORLD_SIZE": "1"}) is None
    assert (
        launch.started_by_torchrun({name: value for name, value in TORCHRUN.items() if name != "MASTER_ADDR"}) is None
    )


def test_torchrun_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch.device_count(3) == 3
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert launch.device_count(1) == launch.device_count(4) == 4
    with pytest.raises(SpecError, match="--devices 3: torchrun has started 4"):
        launch.device_count(3)


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert launch.require_devices(2, "auto") == "cuda"
    assert launch.require_devices(8, "auto", local=False) == "cuda"
    assert launch.require_devices(8, "cpu") == "cpu"
    with pytest.raises(SpecError, match=r"--devices 8: this machine has 2 GPUs\. Use --devices 2, or"):
        launch.require_devices(8, "auto")
    with pytest.raises(SpecError, match=r"--device cuda:1 is one device, .* use --device cuda"):
        launch.require_devices(2, "cuda:1")


def test_cpus_hold_a_base_whole_and_a_mesh_that_is_asked_for_is_taken() -> None:
    assert arrange(spec(devices=2), tiny).mesh == Mesh(shard=2)
    assert not arrange(spec(devices=2), tiny).base_in_parts
    asked = arrange(spec(devices=4, parallel="fsdp=2,tensor=2"), tiny)
    assert (asked.mesh, asked.base_in_parts) == (Mesh(shard=2, tensor=2), True)
    assert arrange(spec(devices=4, parallel="fsdp=2,tensor=2", method=FullFT()), tiny) == asked
    assert not arrange(spec(devices=2, parallel="tensor=2"), tiny).base_in_parts


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"devices": 2, "parallel": "fsdp=4"}, "takes 4 devices, and --devices is 2"),
        ({"devices": 2, "parallel": "tensr=2"}, "Did you mean 'tensor'"),
        ({"parallel": "fsdp=2"}, "takes 2 devices, and --devices is 1"),
        ({"devices": 3, "parallel": "tensor=3"}, "key/value heads, which so many devices do not divide. Use tensor="),
        ({"devices": 2, "parallel": "expert=2"}, "has no experts"),
        (
            {"devices": 2, "method": FullFT(optimizer="adamw8bit")},
            "on 2 devices .* whole blocks of 256 numbers",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(fields: dict[str, Any], said: str) -> None:
    with pytest.raises((SpecError, ValueError), match=said.replace("(", r"\(")):
        arrange(spec(**fields), tiny)


def test_replies_where_experts_are_shared_are_refused_before_anything_is_trained() -> None:
    def mixture() -> Shapes:
        return shapes_from(load_config(resolve("tiny-moe")), "tiny-moe")

    with pytest.raises(SpecError, match="Add --replies 0"):
        arrange(spec(devices=2, parallel="expert=2"), mixture)
    assert arrange(spec(devices=2, parallel="expert=2", replies=0), mixture).mesh == Mesh(expert=2)


def test_gpus_are_arranged_as_the_plan_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("lowregret.train.devices.choose_device", lambda device: torch.device("cuda"))
    monkeypatch.setattr("lowregret.train.devices.device_memory", lambda device: 80 * 2**30)
    small = arrange(spec(devices=8, method=LoRA(rank=8)), tiny)
    assert (small.mesh, small.base_in_parts) == (Mesh(shard=8), False)
    assert arrange(spec(devices=8, method=FullFT()), tiny).base_in_parts, "nobody needs all of it"
    twice = spec(devices=8, method=LoRA(rank=8), checkpoint_activations=True)
    large = arrange(twice, lambda: find_model("Llama-3.3-70B-Instruct"))
    assert (large.mesh, large.base_in_parts) == (Mesh(shard=8), True)
    largest = spec(devices=16, method=FullFT(), checkpoint_activations=True)
    both = arrange(largest, lambda: find_model("Llama-3.3-70B-Instruct"))
    assert (both.mesh, both.base_in_parts) == (Mesh(shard=4, tensor=4), True)
    mixed = CompareSpec(
        model="tiny",
        data=DataSpec(train="builtin:arithmetic"),
        methods=(LoRA(rank=8, optimizer="muon"), FullFT()),
        devices=16,
        checkpoint_activations=True,
    )
    with pytest.raises(SpecError, match="muon steps whole matrices"):
        arrange(mixed, lambda: find_model("Llama-3.3-70B-Instruct"))
