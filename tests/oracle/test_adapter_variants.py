"""Adapters as PEFT saves them, with its options: read here they give PEFT's loss, or are refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
import transformers

from lowregret.data.batches import collate
from lowregret.engine import Engine
from lowregret.errors import ModelError
from lowregret.export.peft import load_adapter
from lowregret.models.load import resolve


def peft_nll(bases: ModuleType, architecture: str, folder: Path, **options: Any) -> float:
    """Save an adapter with random weights, and what PEFT computes with it."""
    base = bases.small_base(architecture)
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **options})
    model = peft.get_peft_model(base.model, config)
    generator = torch.Generator().manual_seed(3)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(folder)
    with torch.no_grad():
        return float(bases.reference_nll(model.eval(), bases.examples(8)))


def our_nll(bases: ModuleType, architecture: str, folder: Path) -> tuple[float, list[str]]:
    engine = Engine(bases.small_base(architecture))
    lines: list[str] = []
    load_adapter(engine, "again", folder, lines.append)
    return float(engine.forward({"again": collate(bases.examples(8))})["again"].loss), lines


@pytest.mark.parametrize(
    "options",
    [
        {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 6}, "alpha_pattern": {"v_proj": 3}},
        {"rank_pattern": {r".*up_proj": 7}, "use_rslora": True},
        {"alpha_pattern": {r"layers\.0\..*": 32}, "use_dora": True},
        {"layers_to_transform": [1]},
        {"layers_to_transform": 0, "layers_pattern": "layers"},
        {"exclude_modules": ["up_proj"]},
        {"target_modules": r".*layers\.1\..*(q|down)_proj"},
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "lm_head"]},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": "mica", "target_modules": ["q_proj", "v_proj"]},
    ],
    ids=str,
)
def test_options_of_peft_are_read_as_peft_means_them(
    bases: ModuleType, options: dict[str, Any], tmp_path: Path
) -> None:
    asked = {"target_modules": ["q_proj", "v_proj", "up_proj"], **options}
    expected = peft_nll(bases, "llama", tmp_path / "adapter", **asked)
    found, lines = our_nll(bases, "llama", tmp_path / "adapter")
    assert found == pytest.approx(expected, abs=1e-5)
    assert abs(float(bases.reference_nll(bases.small_base("llama").model, bases.examples(8))) - expected) > 1e-3
    assert lines == []


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"alora_invocation_tokens": [3, 4]}, "alora_invocation_tokens"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"layer_replication": [(0, 2), (1, 2)]}, "layer_replication"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "lora_embedding_A"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_more_than_a_lora_is_refused_by_name(
    bases: ModuleType, options: dict[str, Any], field: str, tmp_path: Path
) -> None:
    peft_nll(bases, "llama", tmp_path / "adapter", **{"target_modules": ["q_proj"], **options})
    with pytest.raises(ModelError, match=field):
        our_nll(bases, "llama", tmp_path / "adapter")


def test_every_field_of_the_installed_peft_is_known(bases: ModuleType, tmp_path: Path) -> None:
    """Of a plain LoRA none of PEFT's defaults is refused."""
    peft_nll(bases, "llama", tmp_path / "adapter", target_modules=["q_proj"])
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert len(config) > 30
    our_nll(bases, "llama", tmp_path / "adapter")


def test_the_command_line_warns_and_refuses(run: Callable[..., Any], tmp_path: Path) -> None:
    """`eval` on the bundled base: what is doubtful is said on standard error, what is no plain LoRA ends with 2."""
    folder = tmp_path / "adapter"
    model = transformers.AutoModelForCausalLM.from_pretrained(resolve("tiny").path)
    model.name_or_path = "somebody/other-base"
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(folder)
    tensors = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    last = sorted(tensors)[-1].partition(".self_attn")[0]
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(last)}
    safetensors.torch.save_file(kept, folder / "adapter_model.safetensors")
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "1 + 1 =", "completion": " 2"}\n' * 4)
    asked = ("eval", "--model", "tiny", "--adapter", str(folder), "--data", str(data), "--json")
    ended = run(*asked)
    assert ended.exit_code == 0
    assert "lacks 1 of the" in ended.stderr
    assert f"the first is {last.removeprefix('base_model.model.')}" in ended.stderr
    assert "made on somebody/other-base; it is put on tiny" in ended.stderr
    assert json.loads(ended.stdout)["tokens"] > 0
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"alora_invocation_tokens": [1022]}))
    ended = run(*asked)
    assert ended.exit_code == 2
    assert "alora_invocation_tokens is [1022]" in ended.stderr
