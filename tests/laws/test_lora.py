"""A LoRA is an addition to the base's weights: nothing at the start, and the same merged as beside them."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoModelForCausalLM

from lowregret.data.batches import collate
from lowregret.engine import AdamParams, Engine
from lowregret.export.merge import merge
from lowregret.spec import LoRA

EVERYTHING = ("attention", "mlp", "unembedding")


def test_at_its_start_a_lora_is_the_base_to_the_bit(bases: ModuleType, architecture: str) -> None:
    batch = collate(bases.examples(5))
    bare = Engine(bases.small_base(architecture)).forward({"base": batch})["base"]
    engine = Engine(bases.small_base(architecture))
    engine.add_policy("lora", LoRA(rank=4, targets=EVERYTHING))
    assert torch.equal(engine.forward({"lora": batch})["lora"].logprobs, bare.logprobs)
    assert torch.equal(engine.forward({"base": batch})["base"].logprobs, bare.logprobs)


def test_the_bundled_base_too(tiny: Engine, arithmetic: list) -> None:
    batch = collate(arithmetic[:8], tiny.base.pad_id)
    bare = tiny.forward({"base": batch})["base"].logprobs
    tiny.add_policy("lora", LoRA(rank=16))
    assert torch.equal(tiny.forward({"lora": batch})["lora"].logprobs, bare)


@pytest.mark.parametrize("targets", [("attention",), ("mlp",), ("unembedding",), EVERYTHING], ids="+".join)
def test_merged_equals_unmerged(bases: ModuleType, architecture: str, targets: tuple[str, ...]) -> None:
    """Of tied bases (qwen3, gemma2, gpt2, opt) and untied ones, of Linear and Conv1D."""
    base = bases.small_base(architecture)
    engine, batch = Engine(base), collate(bases.examples(5))
    before = engine.forward({"base": batch})["base"].logprobs
    bases.adapted(engine, targets=targets)
    beside = engine.forward({"lora": batch})["lora"].logprobs
    assert bases.distance(beside, before) > 1e-3, "the adapter does nothing, so this test says nothing"
    merge(engine, "lora")
    assert engine.policies == {}
    assert bases.distance(engine.forward({"base": batch})["base"].logprobs, beside) < 1e-5


def test_a_merged_model_saved_and_read_by_transformers_is_the_adapted_one(
    bases: ModuleType, architecture: str, tmp_path: Path
) -> None:
    """The unembedding of a tied base is untied by the merge, and must stay so in the file."""
    engine, found = Engine(bases.small_base(architecture)), bases.examples(5)
    bases.adapted(engine)
    nll = float(engine.forward({"lora": collate(found)})["lora"].loss)
    merge(engine, "lora")
    engine.model.save_pretrained(tmp_path)
    # transformers notices two tensors; other readers of the file believe its configuration.
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert bases.reference_nll(model, found).item() == pytest.approx(nll, abs=1e-5)


def test_a_policy_taken_off_leaves_the_base_as_it_was(bases: ModuleType, architecture: str) -> None:
    engine, batch = Engine(bases.small_base(architecture)), collate(bases.examples(5))
    kinds = [type(module) for module in engine.model.modules()]
    before = engine.forward({"base": batch})["base"].logprobs
    bases.adapted(engine)
    engine.forward_backward({"lora": batch})
    engine.optim_step({"lora": AdamParams(1e-2)})
    engine.remove_policy("lora")
    assert torch.equal(engine.forward({"base": batch})["base"].logprobs, before)
    assert [type(module) for module in engine.model.modules()] == kinds


@pytest.mark.parametrize("p", [2.0, 0.25])
def test_the_scale_of_a_adapter_is_a_matter_of_convention(bases: ModuleType, p: float) -> None:
    """SCIENCE 3.10 with p = q: α/p², p·A, p·lr and ε/p train the same model; powers of two make it exact."""
    curves, finals = [], []
    for factor in (1.0, p):
        engine, found = Engine(bases.small_base("qwen3")), bases.examples(8)
        policy = engine.add_policy("lora", LoRA(rank=4, alpha=4 / factor**2, targets=EVERYTHING))
        with torch.no_grad():
            for adapter in policy.adapters.values():
                adapter.a.mul_(factor)
        losses = []
        for _ in range(8):
            losses.append(float(engine.forward_backward({"lora": collate(found)})["lora"].loss))
            engine.optim_step({"lora": AdamParams(0.02 * factor, eps=1e-6 / factor)})
        curves.append(losses)
        finals.append({name: weight / factor for name, weight in bases.weights(policy).items()})
    assert curves[0] == curves[1]
    assert curves[0][-1] < curves[0][0] - 0.1
    for name, weight in finals[0].items():
        assert torch.equal(weight, finals[1][name]), name
