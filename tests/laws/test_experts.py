"""The laws of LoRA hold on the experts of a mixture as on any matrix, for every family, convention and pack."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lowregret.data.batches import collate, passes
from lowregret.engine import AdamParams, Engine, SamplingParams
from lowregret.errors import TargetError
from lowregret.export.merge import merge
from lowregret.lora.moe.experts import LoRAExperts
from lowregret.spec import FullFT, LoRA
from lowregret.spec.conventions import CONVENTIONS

MIXTURES = ["qwen3_moe", "mixtral", "olmoe", "qwen2_moe", "gpt_oss", "deepseek_v3"]
EVERYTHING = ("attention", "mlp", "router", "unembedding")


def lora(rank: int = 8, convention: Any = "per-active", targets: tuple[str, ...] = EVERYTHING) -> LoRA:
    return LoRA(rank=rank, alpha=8, targets=targets, convention=convention)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("architecture", MIXTURES)
def test_at_its_start_a_lora_is_the_base_to_the_bit(bases: ModuleType, architecture: str, convention: Any) -> None:
    batch = collate(bases.examples(5))
    engine = Engine(bases.small_base(architecture))
    bare = engine.forward({"base": batch})["base"].logprobs
    engine.add_policy("lora", lora(convention=convention))
    assert torch.equal(engine.forward({"lora": batch})["lora"].logprobs, bare)
    assert torch.equal(engine.forward({"base": batch})["base"].logprobs, bare)


@pytest.mark.parametrize("targets", [("experts",), ("router",), EVERYTHING], ids="+".join)
@pytest.mark.parametrize("architecture", MIXTURES)
def test_merged_equals_unmerged_in_transformers_too(
    bases: ModuleType, architecture: str, targets: tuple[str, ...], tmp_path: Path
) -> None:
    engine, found = Engine(bases.small_base(architecture)), bases.examples(5)
    batch = collate(found)
    before = engine.forward({"base": batch})["base"].logprobs
    bases.stir(engine.add_policy("lora", lora(targets=targets)))
    beside = engine.forward({"lora": batch})["lora"]
    assert bases.distance(beside.logprobs, before) > 1e-3, "the adapter does nothing, so this test says nothing"
    merge(engine, "lora")
    assert not any(isinstance(module, LoRAExperts) for module in engine.model.modules())
    assert bases.distance(engine.forward({"base": batch})["base"].logprobs, beside.logprobs) < 1e-5
    engine.model.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert bases.reference_nll(model, found).item() == pytest.approx(float(beside.loss), abs=1e-5)


def test_a_policy_taken_off_leaves_the_base_as_it_was(bases: ModuleType) -> None:
    engine, batch = Engine(bases.small_base("qwen3_moe")), collate(bases.examples(5))
    kinds = [type(module) for module in engine.model.modules()]
    before = engine.forward({"base": batch})["base"].logprobs
    bases.stir(engine.add_policy("lora", lora()))
    engine.forward_backward({"lora": batch})
    engine.optim_step({"lora": AdamParams(1e-2)})
    engine.remove_policy("lora")
    assert torch.equal(engine.forward({"base": batch})["base"].logprobs, before)
    assert [type(module) for module in engine.model.modules()] == kinds


@pytest.mark.parametrize("architecture", MIXTURES)
def test_a_packed_policy_equals_the_same_alone(bases: ModuleType, architecture: str) -> None:
    """Ranks, conventions, targets and rows all differ; experts see pairs of all four at once."""
    methods = {
        "a": lora(8),
        "b": lora(4, "full-rank-each", ("experts",)),
        "c": lora(4, "shared-outer", ("attention", "mlp")),
        "d": lora(16, targets=("attention",)),
    }
    batches = {name: collate(bases.examples(3 + index, index)) for index, name in enumerate(methods)}

    def train(names: list[str]) -> tuple[dict[str, list[float]], dict[str, Any]]:
        engine = Engine(bases.small_base(architecture))
        for index, (name, method) in enumerate(methods.items()):
            if name in names:
                bases.stir(engine.add_policy(name, method, index), index)
        losses: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(3):
            for name, result in engine.forward_backward({name: batches[name] for name in names}).items():
                losses[name].append(float(result.loss))
            engine.optim_step({name: AdamParams(3e-3) for name in names})
        return losses, {name: bases.weights(engine.policies[name]) for name in names}

    together, packed = train(list(methods))
    for name in methods:
        alone, weights = train([name])
        assert together[name] == pytest.approx(alone[name], abs=2e-5)
        for key, weight in weights[name].items():
            assert bases.distance(packed[name][key], weight) < 2e-3, key


def test_a_nan_in_one_policy_leaves_its_neighbours_untouched(bases: ModuleType) -> None:
    def run(poison: bool) -> dict[str, Any]:
        engine = Engine(bases.small_base("qwen3_moe"))
        for index, name in enumerate(("sick", "well", "other")):
            bases.stir(engine.add_policy(name, lora(8 if name != "other" else 4), index), index)
        if poison:
            with torch.no_grad():
                engine.policies["sick"].weights["model.layers.0.mlp.experts.up_proj.lora_B"].fill_(torch.nan)
        for _ in range(2):
            batches = {name: collate(bases.examples(4, 1)) for name in ("sick", "well", "other")}
            engine.forward_backward(batches)
            engine.optim_step({name: AdamParams(1e-3, clip_norm=1.0) for name in batches})
        return {name: bases.weights(engine.policies[name]) for name in ("sick", "well", "other")}

    healthy, ill = run(False), run(True)
    assert not torch.stack([weight.isfinite().all() for weight in ill["sick"].values()]).all()
    for name in ("well", "other"):
        for key, weight in healthy[name].items():
            torch.testing.assert_close(ill[name][key], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_splitting_a_batch_changes_nothing(bases: ModuleType, convention: Any) -> None:
    batch = collate(bases.examples(6))
    gradients = []
    for rows in (6, 2):
        engine = Engine(bases.small_base("qwen3_moe"))
        policy = bases.stir(engine.add_policy("lora", lora(convention=convention)))
        for part in passes({"lora": batch}, None, rows):
            engine.forward_backward(part)
        gradients.append({name: weight.grad.clone() for name, weight in policy.weights.items()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_the_rank_of_each_convention_trains_with_its_own_scale(bases: ModuleType) -> None:
    """α over the rank in use: a LoRA of rank 2 a piece is the same model by whatever convention it came to that."""
    batch, losses = collate(bases.examples(5)), {}
    for convention, rank in (("per-active", 4), ("per-total", 8), ("full-rank-each", 2)):
        engine = Engine(bases.small_base("qwen3_moe"))
        policy = bases.stir(engine.add_policy("lora", lora(rank, convention, ("experts",))))
        assert {weight.shape[1] for name, weight in policy.weights.items() if name.endswith("lora_A")} == {2}
        losses[convention] = float(engine.forward({"lora": batch})["lora"].loss)
    assert len(set(losses.values())) == 1


def test_sampling_is_what_the_merged_base_says(bases: ModuleType) -> None:
    prompts = [[2, 3, 4], [5, 6, 7, 8]]
    engine = Engine(bases.small_base("qwen3_moe"))
    bases.stir(engine.add_policy("lora", lora()))
    params = SamplingParams(max_tokens=6, temperature=0.0)
    beside = engine.sample({"lora": prompts, "base": prompts}, params)["lora"]
    merge(engine, "lora")
    merged = engine.sample({"base": prompts}, params)["base"]
    assert [one.token_ids for one in beside] == [one.token_ids for one in merged]


@pytest.mark.parametrize("architecture", MIXTURES)
def test_full_fine_tuning_of_a_mixture_is_the_same_verbs(bases: ModuleType, architecture: str) -> None:
    """Against a plain torch loop, on the model's own loss."""
    found = bases.examples(6)
    base = bases.small_base(architecture)
    reference = bases.copied(base)
    trained = [parameter for parameter in reference.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    engine = Engine(base)
    engine.add_policy("full", FullFT())
    for _ in range(3):
        expected = bases.reference_nll(reference, found)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        loss = float(engine.forward_backward({"full": collate(found)})["full"].loss)
        engine.optim_step({"full": AdamParams(1e-3)})
        assert loss == pytest.approx(expected.item(), abs=1e-4)
    assert loss < 5.0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_precisions_learn(bases: ModuleType, precision: str) -> None:
    engine = Engine(bases.small_base("qwen3_moe"), precision=precision)
    engine.add_policy("lora", lora())
    batch = collate(bases.examples(6))
    losses = []
    for _ in range(12):
        losses.append(float(engine.forward_backward({"lora": batch})["lora"].loss))
        engine.optim_step({"lora": AdamParams(2e-2)})
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.parametrize("architecture", MIXTURES)
def test_in_bfloat16_both_methods_start_from_the_same_function(bases: ModuleType, architecture: str) -> None:
    batch, found = collate(bases.examples(5)), []
    for method in (lora(targets=("attention", "mlp")), FullFT()):
        engine = Engine(bases.small_base(architecture), precision="bfloat16")
        engine.add_policy("policy", method)
        found.append(engine.forward({"policy": batch})["policy"].logprobs)
    assert torch.equal(*found)


def test_activation_checkpointing_changes_nothing(bases: ModuleType) -> None:
    gradients = []
    for checkpointed in (False, True):
        engine = Engine(bases.small_base("qwen3_moe"), checkpoint_activations=checkpointed)
        policy = bases.stir(engine.add_policy("lora", lora()))
        engine.forward_backward({"lora": collate(bases.examples(5))})
        gradients.append({name: weight.grad.clone() for name, weight in policy.weights.items()})
        traffic = engine.model.get_submodule("model.layers.0.mlp.experts").traffic["lora"]
        gradients[-1]["traffic"] = traffic
    assert bases.same(*gradients)


def test_a_convention_without_experts_is_refused(bases: ModuleType) -> None:
    for architecture, targets in (("llama", ("attention", "mlp")), ("qwen3_moe", ("attention",))):
        engine = Engine(bases.small_base(architecture))
        with pytest.raises(TargetError, match="per-total is a convention for experts"):
            engine.add_policy("lora", lora(8, "per-total", targets))
        assert engine.policies == {}
        assert engine.forward({"base": collate(bases.examples(2))})
