"""Methods with an optimizer of their own: how they are spelled, what steps them, and what they cannot go with."""

from __future__ import annotations

from typing import Any

import pytest

from lowregret.errors import SpecError
from lowregret.spec import AdamW, CompareSpec, FullFT, LoRA, TrainSpec, build
from lowregret.spec.lean import kind_of, require_able
from lowregret.spec.method import parse_method
from lowregret.spec.optimizer import OPTIMIZERS, BF16Nearest, Muon, block_shape, stepped_by
from lowregret.spec.plan import PlanSpec

ON_GPU = {"model": "tiny", "data": {"train": "builtin:arithmetic"}, "precision": "bfloat16"}


def read(spelled: str) -> FullFT | LoRA:
    fields = parse_method(spelled)
    return build(FullFT, fields) if fields["kind"] == "full" else build(LoRA, fields)


def train(method: Any, **more: Any) -> TrainSpec:
    return build(TrainSpec, {**ON_GPU, "method": method, **more})


@pytest.mark.parametrize(
    "spelled",
    [f"full:{kind}{later}" for kind in OPTIMIZERS if kind != "adamw" for later in ("", ":in-backward")]
    + ["full", "full:in-backward", "lora:4:muon", "lora:4:dora:adafactor:mlp", "lora:16:adamw8bit"],
)
def test_a_name_is_its_spelling_and_comes_back_from_a_record(spelled: str) -> None:
    method = read(spelled)
    assert method.name == spelled
    assert type(method).model_validate(method.model_dump(mode="json")) == method
    assert isinstance(method, LoRA) or method.plain is (spelled == "full")


def test_defaults_are_in_no_record() -> None:
    assert FullFT().model_dump() == {"kind": "full"}
    assert "optimizer" not in LoRA(rank=4).model_dump()


def test_a_method_takes_the_hyper_parameters_of_the_run() -> None:
    asked = AdamW(beta2=0.99, weight_decay=0.1, clip_norm=2.0, schedule="wsd", decay_fraction=0.5)
    for kind, found in OPTIMIZERS.items():
        own = stepped_by(kind, asked)
        assert type(own) is found
        shared = type(asked).model_fields.keys() & found.model_fields.keys() - {"kind"}
        assert all(getattr(own, name) == getattr(asked, name) for name in shared)
        assert shared >= {"weight_decay", "clip_norm", "schedule", "decay_fraction"}
    assert stepped_by(None, asked) is asked
    assert train("full:muon", optimizer={"beta2": 0.99}).stepped_by(FullFT(optimizer="muon")) == Muon(beta2=0.99)


@pytest.mark.parametrize(
    ("method", "more", "said"),
    [
        ("full:bf16", {"precision": "float32"}, ["full:bf16", "bfloat16", "full:adamw8bit"]),
        ("full:bf16", {"devices": 2}, ["one device", "devices = 1", "full:adamw8bit"]),
        ("full:muon", {"devices": 2}, ["one device"]),
        ("full:in-backward", {"devices": 2}, ["one device"]),
        ("full:in-backward", {"optimizer": {"clip_norm": 1.0}}, ["clip_norm", "or use full"]),
        ("full:bf16:in-backward", {"batch_size": 8, "micro_batch_size": 4}, ["micro_batch_size 4", "or full:bf16"]),
        ("full:in-backward", {"objective": {"kind": "rl", "task": "arithmetic"}}, ["several passes"]),
        ("full:adafactor", {"optimizer": {"beta1": 0.5}}, ["beta1 is of no use to full:adafactor"]),
        ("lora:4", {"checkpoint_activations": True, "offload_activations": True}, ["not both"]),
        ("full:in-backward", {"memory_gb": 1.0}, ["memory_gb cuts a step", "checkpoint_activations"]),
        ({"kind": "full", "quantisation": "nf4"}, {}, ["method.full.quantisation", "in_backward, kind, optimizer"]),
        ("full:bf17", {}, ["Did you mean 'bf16'"]),
        ("lora:4:bf16", {}, ["float32", "adamw8bit, adafactor, muon"]),
        ("full:bf16:muon", {}, ["gives optimizer twice"]),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_would(method: Any, more: Any, said: list[str]) -> None:
    with pytest.raises(SpecError) as error:
        train(method, **more)
    assert all(words in str(error.value) for words in said), str(error.value)


def test_what_goes_together_is_taken() -> None:
    train("full:adamw8bit", devices=2)
    train("full:bf16:in-backward", batch_size=8, micro_batch_size=8)
    methods = ("lora:4", "full", "full:adafactor")
    both = build(CompareSpec, {**ON_GPU, "methods": methods, "optimizer": {"beta1": 0.5}})  # beta1 is for the others
    assert [method.name for method in both.methods] == list(methods)


def test_an_engine_asks_the_same() -> None:
    require_able(FullFT(), BF16Nearest, "torch.bfloat16")
    with pytest.raises(SpecError, match="full:bf16-nearest: its weights are bfloat16 and products would be float32"):
        require_able(FullFT(), BF16Nearest, "torch.float32")
    with pytest.raises(SpecError, match="muon steps whole matrices"):
        require_able(LoRA(rank=2, optimizer="muon"), Muon, cut=True)
    with pytest.raises(SpecError, match="bf16-nearest is for full fine-tuning"):
        require_able(LoRA(rank=2), BF16Nearest)
    require_able(LoRA(rank=2, optimizer="muon"), Muon, devices=8)


def test_a_plan_refuses_what_training_would() -> None:
    with pytest.raises(SpecError, match="one device"):
        build(PlanSpec, {"method": "full:bf16", "devices": 2})
    for method, mesh, said in (
        ("lora:4:nf4", "fsdp=2", "lies whole on each device: use replicate=2"),
        ("lora:4:muon", "tensor=2", "muon steps whole matrices"),
        ("full:adamw8bit", "tensor=2", "adamw8bit steps whole matrices"),
    ):
        with pytest.raises(SpecError, match=said):
            build(PlanSpec, {"method": method, "devices": 2, "parallel": mesh})
        with pytest.raises(SpecError, match=said):
            train(method, devices=2, parallel=mesh)
    build(PlanSpec, {"method": "lora:4:nf4", "devices": 2, "parallel": "replicate=2"})
    assert build(PlanSpec, {"method": "full:bf16"}).method == FullFT(optimizer="bf16")


def test_the_bars_of_bytes_a_parameter() -> None:
    """Weights, gradients and moments: at most 7, and 5 with the step in the backward pass."""
    own = kind_of(FullFT(optimizer="bf16"))
    assert own.bytes_per_parameter() == 6 + 2 / 64
    assert own.bytes_per_parameter(in_backward=True) == 4 + 2 / 64
    assert OPTIMIZERS["bf16-split"].bytes_per_parameter() == 7 + 2 / 64
    assert OPTIMIZERS["adamw"].bytes_per_parameter() == 16


def test_scales_follow_rows_where_blocks_do_not_straddle_them() -> None:
    assert block_shape((30, 512)) == (30, 2)
    assert block_shape((30, 2, 256)) == (30, 2)
    assert block_shape((30, 100)) == (12,)
