"""What is saved means to PEFT and transformers what it means here."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM

import lowregret
from lowregret.data.batches import collate
from lowregret.data.prepare import prepare_held_out
from lowregret.engine import AdamParams, Engine
from lowregret.errors import ModelError
from lowregret.export.peft import export_policy, load_adapter
from lowregret.models.load import load_base, load_tokenizer, resolve
from lowregret.spec import DataSpec, FullFT, TrainingSpec
from lowregret.train.job import evaluate_model

TOLERANCE = 1e-5
DATA = "builtin:instructions:size=32,test_size=24"  # in a format that the base does not know
TARGETS = ["attention", "mlp", "unembedding", "attention+mlp+unembedding", r"re:\.[02]\..*(up|q)_proj"]


def plain(path: str | Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


@torch.no_grad()
def spec(model: str) -> TrainingSpec:
    return TrainingSpec(model=model, data=DataSpec(train=DATA))


def their_nll(bases: ModuleType, model: Any) -> float:
    tokenizer = load_tokenizer(resolve("tiny"))
    examples, _ = prepare_held_out(DataSpec(train=DATA), tokenizer)
    nll: float = bases.reference_nll(model, examples, tokenizer.pad_token_id or 0).item()
    return nll


def train(method: str, out: Path) -> dict[str, Any]:
    lowregret.fine_tune("tiny", DATA, method=method, out=out, learning_rate=3e-3, steps=4, batch_size=4)
    record: dict[str, Any] = json.loads((out / "trial.json").read_text())
    return record


@pytest.mark.parametrize("targets", TARGETS)
def test_a_saved_adapter_is_the_same_to_peft(bases: ModuleType, targets: str, tmp_path: Path) -> None:
    record = train(f"lora:8:{targets}", tmp_path)
    ours = evaluate_model(spec("tiny"), tmp_path / "adapter")
    assert ours["nll"] == record["test_nll"], "eval must repeat training's number exactly"
    assert ours["tokens"] == record["test_tokens"]
    base = resolve("tiny").path
    theirs = their_nll(bases, peft.PeftModel.from_pretrained(plain(base), str(tmp_path / "adapter")))
    assert theirs == pytest.approx(ours["nll"], abs=TOLERANCE)
    assert abs(their_nll(bases, plain(base)) - theirs) > 100 * TOLERANCE, "the adapter does nothing"


def test_a_saved_model_is_the_same_to_transformers(bases: ModuleType, tmp_path: Path) -> None:
    record = train("full", tmp_path)
    ours = evaluate_model(spec(str(tmp_path / "model")))
    assert ours["nll"] == record["test_nll"], "eval must repeat training's number exactly"
    theirs = their_nll(bases, plain(tmp_path / "model"))
    assert theirs == pytest.approx(ours["nll"], abs=TOLERANCE)
    assert abs(their_nll(bases, plain(resolve("tiny").path)) - theirs) > 100 * TOLERANCE


def test_the_base_is_the_same_to_transformers(bases: ModuleType) -> None:
    assert their_nll(bases, plain(resolve("tiny").path)) == pytest.approx(
        evaluate_model(spec("tiny"))["nll"], abs=TOLERANCE
    )


def test_an_adapter_that_peft_trained_is_the_same_here(bases: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    model = peft.get_peft_model(plain(resolve("tiny").path), config).eval()
    model.save_pretrained(tmp_path)
    ours = evaluate_model(spec("tiny"), tmp_path)["nll"]
    assert ours == pytest.approx(their_nll(bases, model), abs=TOLERANCE)


@pytest.mark.parametrize("targets", [("attention", "mlp"), ("unembedding",), ("attention", "mlp", "unembedding")])
def test_adapters_of_every_architecture(
    bases: ModuleType, architecture: str, targets: tuple[str, ...], tmp_path: Path
) -> None:
    """GPT-2's are fan_in_fan_out; loaded into a fresh engine they give what was trained, to the bit."""
    base, found = bases.small_base(architecture), bases.examples(8)
    model = bases.copied(base)
    engine = Engine(base)
    bases.adapted(engine, targets=targets)
    engine.forward_backward({"lora": collate(found)})
    engine.optim_step({"lora": AdamParams(1e-2)})
    export_policy(engine, "lora", tmp_path / "adapter")
    ours = engine.forward({"lora": collate(found)})["lora"]
    wrapped = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter")).eval()
    assert bases.reference_nll(wrapped, found).item() == pytest.approx(float(ours.loss), abs=TOLERANCE)
    fresh = Engine(bases.small_base(architecture))
    load_adapter(fresh, "again", tmp_path / "adapter")
    assert torch.equal(fresh.forward({"again": collate(found)})["again"].logprobs, ours.logprobs)


def test_models_of_every_architecture(bases: ModuleType, architecture: str, tmp_path: Path) -> None:
    engine, found = Engine(bases.small_base(architecture)), bases.examples(8)
    engine.add_policy("full", FullFT())
    engine.forward_backward({"full": collate(found)})
    engine.optim_step({"full": AdamParams(1e-2)})
    export_policy(engine, "full", tmp_path / "model")
    ours = float(engine.forward({"full": collate(found)})["full"].loss)
    assert bases.reference_nll(plain(tmp_path / "model"), found).item() == pytest.approx(ours, abs=TOLERANCE)
    again = Engine(load_base(resolve(str(tmp_path / "model"))))
    assert float(again.forward({"base": collate(found)})["base"].loss) == ours


def test_what_peft_saves_of_a_tied_unembedding_is_read_and_of_another_base_refused(
    bases: ModuleType, tmp_path: Path
) -> None:
    """PEFT's own save writes the base's weight of an adapted unembedding beside its LoRA."""
    base = bases.small_base("qwen3")
    model = bases.copied(base)
    engine = Engine(base)
    policy = bases.adapted(engine, targets=("attention", "mlp", "unembedding"))
    export_policy(engine, "lora", tmp_path / "ours")
    peft.PeftModel.from_pretrained(model, str(tmp_path / "ours")).save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs" / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    weight = "base_model.model.lm_head.base_layer.weight"
    assert weight in tensors
    again = load_adapter(engine, "again", tmp_path / "theirs")
    for name, value in policy.weights.items():
        assert torch.equal(again.weights[name], value)
    safetensors.torch.save_file(tensors | {weight: tensors[weight] + 1}, file)
    with pytest.raises(ModelError, match=r"holds lm_head\.weight, with other values than this base has"):
        load_adapter(engine, "other", tmp_path / "theirs")
    assert "other" not in engine.policies
