"""LoRA over a base in NF4 is LoRA over the base whose numbers those are: whatever the base, the variant, the pack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from lowregret.data.batches import collate
from lowregret.engine import AdamParams, Engine, SamplingParams
from lowregret.errors import SpecError
from lowregret.models.four_bit import FourBitWeight, is_four_bit
from lowregret.spec import FullFT, LoRA

pytest.importorskip("bitsandbytes")

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dora": {"dora": True},
    "pissa": {"init": "pissa"},
    "olora": {"init": "olora"},
    "dropout": {"dropout": 0.3},
    "attention alone": {"targets": ("attention",)},
}


def packed(bases: ModuleType, architecture: str, **options: Any) -> Engine:
    return Engine(replace(bases.small_base(architecture), quantisation="nf4"), **options)


def unpacked(bases: ModuleType, architecture: str, there: Engine, **options: Any) -> Engine:
    """The same numbers, not packed."""
    base = bases.small_base(architecture)
    for name, weight in base.model.named_parameters():
        own = there.model.get_parameter(name)
        if isinstance(own, FourBitWeight):
            weight.data.copy_(own.unpacked())
    return Engine(base, **options)


def trained(bases: ModuleType, engine: Engine, methods: dict[str, LoRA], steps: int = 3) -> list[Tensor]:
    """Losses and weights of some policies after some steps."""
    for name, method in methods.items():
        method = method.model_copy(update={"quantisation": engine.base.quantisation})
        engine.add_policy(name, method, seed=len(name))
    losses = []
    for step in range(steps):
        batches = {name: collate(bases.examples(3, seed=10 * step + len(name))) for name in methods}
        losses += [found.loss for found in engine.forward_backward(batches).values()]
        engine.optim_step({name: AdamParams(5e-3) for name in methods})
    return [torch.stack(losses), *(w.detach() for name in methods for w in engine.policies[name].weights.values())]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_it_trains_as_over_the_same_numbers(bases: ModuleType, variant: str) -> None:
    """To the bit: a plain LoRA on every small base, the variants on one of each kind of layer."""
    some = ("llama", "gpt2", "qwen3_moe")
    for architecture in (*bases.DENSE, *bases.MIXTURES) if variant == "plain" else some:
        fields = VARIANTS[variant]
        if architecture in bases.MIXTURES and variant != "plain":
            fields = {**fields, "targets": ("attention",)}
        there = packed(bases, architecture)
        beside = unpacked(bases, architecture, there)
        assert is_four_bit(there.model)
        assert not is_four_bit(beside.model)
        methods = {"one": LoRA(rank=4, **fields), "other": LoRA(rank=4, **fields)}
        assert equal(trained(bases, there, methods), trained(bases, beside, methods)), architecture


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3_moe", "gpt_oss"])
def test_in_bfloat16_too(bases: ModuleType, architecture: str) -> None:
    there = packed(bases, architecture, precision="bfloat16")
    beside = unpacked(bases, architecture, there, precision="bfloat16")
    methods = {"one": LoRA(rank=4), "other": LoRA(rank=4, alpha=8)}
    assert equal(trained(bases, there, methods), trained(bases, beside, methods))


@pytest.mark.parametrize("architecture", ["llama", "qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize("targets", [("attention", "mlp", "unembedding"), ("attention",)])
def test_nothing_unpacked_is_kept_for_the_backward_pass(
    bases: ModuleType, architecture: str, targets: tuple[str, ...]
) -> None:
    engine = packed(bases, architecture)
    engine.add_policy("lora", LoRA(rank=4, targets=targets, quantisation="nf4"))
    whole = {
        shape
        for weight in engine.model.parameters()
        if isinstance(weight, FourBitWeight)
        for shape in (tuple(weight.shape), tuple(weight.mT.shape))
    }
    engine.policies["lora"].before_backward()
    kept: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    batch = collate(bases.examples(5))
    with saved_tensors_hooks(note, lambda tensor: tensor):
        engine.forward_backward({"lora": batch})
    adapters = {tuple(weight.shape) for weight in engine.policies["lora"].weights.values()}
    dense = [tuple(tensor.shape) for tensor in kept if not isinstance(tensor, FourBitWeight)]
    assert any(isinstance(tensor, FourBitWeight) for tensor in kept)
    assert not (set(dense) - adapters) & whole


def test_a_policy_beside_others_is_the_policy_alone(bases: ModuleType) -> None:
    methods = {"plain": LoRA(rank=4), "dora": LoRA(rank=4, dora=True), "pissa": LoRA(rank=2, init="pissa")}
    together = trained(bases, packed(bases, "llama"), methods)[1:]
    alone = [
        weight
        for name, method in methods.items()
        for weight in trained(bases, packed(bases, "llama"), {name: method})[1:]
    ]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_resumed_is_uninterrupted_to_the_bit(bases: ModuleType, tmp_path: Path) -> None:
    """Packed anew, the base is the same."""
    batch = collate(bases.examples(4))
    method = LoRA(rank=4, init="pissa", quantisation="nf4")
    engines = [packed(bases, "qwen3_moe") for _ in range(2)]
    losses = []
    for number, engine in enumerate(engines):
        targeted = method.model_copy(update={"targets": ("attention",)})
        engine.add_policy("lora", targeted)
        if number:
            engine.load("lora", tmp_path / "state")
        for step in range(number * 2, 4):
            losses.append(engine.forward_backward({"lora": batch})["lora"].loss)
            engine.optim_step({"lora": AdamParams(1e-2)})
            if not number and step == 1:
                engine.save("lora", tmp_path / "state")
    assert torch.equal(torch.stack(losses[2:4]), torch.stack(losses[4:]))


def test_it_is_sampled_as_over_the_same_numbers(bases: ModuleType) -> None:
    there = packed(bases, "qwen3")
    beside = unpacked(bases, "qwen3", there)
    prompts = {"base": [list(row.token_ids) for row in bases.examples(3)]}
    asked = SamplingParams(max_tokens=6, temperature=1.0, seed=1)
    one, other = (engine.sample(prompts, asked)["base"] for engine in (there, beside))
    assert [row.token_ids for row in one] == [row.token_ids for row in other]


def test_checkpointed_activations_change_no_bit(bases: ModuleType) -> None:
    methods = {"lora": LoRA(rank=4)}
    for architecture in ("llama", "qwen3_moe"):
        kept = trained(bases, packed(bases, architecture), methods)
        again = trained(bases, packed(bases, architecture, checkpoint_activations=True), methods)
        assert equal(kept, again)


def test_offloaded_activations_change_no_bit(bases: ModuleType) -> None:
    methods = {"lora": LoRA(rank=4)}
    for architecture in ("llama", "qwen3_moe"):
        kept = trained(bases, packed(bases, architecture), methods)
        away = trained(bases, packed(bases, architecture, offload_activations=True), methods)
        assert equal(kept, away)


def test_what_trains_the_base_is_refused(bases: ModuleType) -> None:
    for engine, method in (
        (packed(bases, "llama"), FullFT()),
        (packed(bases, "llama"), LoRA(rank=4)),
        (Engine(bases.small_base("llama")), LoRA(rank=4, quantisation="nf4")),
    ):
        with pytest.raises(SpecError, match=r"is for a base .*quantisation="):
            engine.add_policy("lora", method)


def test_nothing_is_written_to_it(bases: ModuleType) -> None:
    weight = FourBitWeight.of(torch.randn(64, 64))
    with pytest.raises(TypeError, match="not written to"):
        weight.copy_(torch.zeros(64, 64))
    with pytest.raises(TypeError, match="not written to"):
        weight.add_(1)
