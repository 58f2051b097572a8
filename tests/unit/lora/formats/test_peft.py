"""Adapters on disk: what is written is read back, and what cannot be read says why."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch

from lowregret.engine import Engine
from lowregret.errors import ModelError
from lowregret.export.merge import merge
from lowregret.export.peft import export_policy, load_adapter
from lowregret.lora.formats.peft import CONFIG_NAME, WEIGHTS_NAME, read_adapter
from lowregret.spec import FullFT, LoRA

EVERYTHING = ("attention", "mlp", "unembedding")


@pytest.fixture
def engine(bases: ModuleType) -> Engine:
    engine = Engine(bases.small_base("llama"))
    bases.adapted(engine)
    return engine


@pytest.fixture
def adapter(engine: Engine, tmp_path: Path) -> Path:
    export_policy(engine, "lora", tmp_path / "adapter")
    return tmp_path / "adapter"


def change(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / CONFIG_NAME).read_text())
    (folder / CONFIG_NAME).write_text(json.dumps({**config, **fields}))


def rewrite(folder: Path, change: Any) -> None:
    tensors = safetensors.torch.load_file(folder / WEIGHTS_NAME)
    change(tensors)
    safetensors.torch.save_file(tensors, folder / WEIGHTS_NAME)


@pytest.mark.parametrize("targets", [EVERYTHING, ("attention",), ("re:1.*q_proj|o_proj",)])
def test_round_trip(bases: ModuleType, architecture: str, targets: tuple[str, ...], tmp_path: Path) -> None:
    if targets[0].startswith("re:"):
        targets = (r"re:\.1\.",)
    engine = Engine(bases.small_base(architecture))
    policy = bases.adapted(engine, targets=targets)
    bytes_written = export_policy(engine, "lora", tmp_path / "adapter")
    assert bytes_written == (tmp_path / "adapter" / WEIGHTS_NAME).stat().st_size
    fresh = Engine(bases.small_base(architecture))
    again = load_adapter(fresh, "again", tmp_path / "adapter")
    assert bases.same(bases.weights(again), bases.weights(policy))
    scales = {name: weights.scale for name, weights in policy.adapters.items()}
    assert {name: weights.scale for name, weights in again.adapters.items()} == scales


def test_the_files_say_what_peft_wants_to_know(adapter: Path, engine: Engine) -> None:
    config = json.loads((adapter / CONFIG_NAME).read_text())
    assert config["peft_type"] == "LORA"
    assert (config["r"], config["lora_alpha"], config["fan_in_fan_out"]) == (3, 3, False)
    assert config["base_model_name_or_path"] == "llama"
    assert config["target_modules"] == [
        "down_proj", "gate_proj", "k_proj", "lm_head", "o_proj", "q_proj", "up_proj", "v_proj",
    ]  # fmt: skip
    names = set(safetensors.torch.load_file(adapter / WEIGHTS_NAME))
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in names
    assert len(names) == 2 * len(engine.matrices)


def test_short_names_that_would_select_too_much_are_written_in_full(bases: ModuleType, tmp_path: Path) -> None:
    """GPT-2's attention and MLP both have a c_proj."""
    engine = Engine(bases.small_base("gpt2"))
    bases.adapted(engine, targets=("attention",))
    export_policy(engine, "lora", tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / CONFIG_NAME).read_text())
    assert config["fan_in_fan_out"] is True
    assert config["target_modules"] == [f"transformer.h.{n}.attn.{m}" for n in (0, 1) for m in ("c_attn", "c_proj")]


def test_an_alpha_that_is_no_whole_number_survives(bases: ModuleType, tmp_path: Path) -> None:
    engine = Engine(bases.small_base("llama"))
    engine.add_policy("lora", LoRA(rank=4, alpha=2.5))
    export_policy(engine, "lora", tmp_path / "adapter")
    fresh = Engine(bases.small_base("llama"))
    assert load_adapter(fresh, "again", tmp_path / "adapter").method.alpha == 2.5


def test_dropout_survives_and_a_file_without_it_has_none(bases: ModuleType, tmp_path: Path) -> None:
    engine = Engine(bases.small_base("llama"))
    engine.add_policy("lora", LoRA(rank=4, dropout=0.25))
    export_policy(engine, "lora", tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / CONFIG_NAME).read_text())
    assert config["lora_dropout"] == 0.25
    assert load_adapter(engine, "again", tmp_path / "adapter").method.dropout == 0.25
    del config["lora_dropout"]
    (tmp_path / "adapter" / CONFIG_NAME).write_text(json.dumps(config))
    assert load_adapter(engine, "without", tmp_path / "adapter").method.dropout == 0


@pytest.mark.parametrize("fields", [{"r": 0}, {"lora_alpha": "big"}, {"lora_dropout": 1.0}, {"lora_dropout": None}])
def test_numbers_out_of_their_bounds_are_refused(adapter: Path, bases: ModuleType, fields: dict[str, Any]) -> None:
    change(adapter, **fields)
    with pytest.raises(ModelError, match=f"{next(iter(fields))} is {next(iter(fields.values()))!r}"):
        load_adapter(Engine(bases.small_base("llama")), "again", adapter)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'.*changed base"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'.*changed base"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern is set"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
        ({"bias": "all"}, "bias is 'all'"),
    ],
)
def test_variants_that_would_be_read_wrong_are_refused(adapter: Path, fields: dict[str, Any], words: str) -> None:
    change(adapter, **fields)
    with pytest.raises(ModelError, match=f"{CONFIG_NAME}: {words}"):
        read_adapter(adapter)


@pytest.mark.parametrize("file", [CONFIG_NAME, WEIGHTS_NAME])
@pytest.mark.parametrize("damage", ["missing", "empty", "broken"])
def test_a_damaged_adapter_is_refused(adapter: Path, file: str, damage: str) -> None:
    if damage == "missing":
        (adapter / file).unlink()
    else:
        (adapter / file).write_bytes(b"" if damage == "empty" else b"{ broken")
    with pytest.raises(ModelError, match="adapter"):
        read_adapter(adapter)


def test_tensors_that_are_no_lora_are_refused(adapter: Path) -> None:
    rewrite(adapter, lambda tensors: tensors.update({"base_model.model.lm_head.bias": torch.zeros(3)}))
    with pytest.raises(ModelError, match=r"more than LoRA matrices: base_model\.model\.lm_head\.bias"):
        read_adapter(adapter)


def test_half_a_lora_is_refused(adapter: Path) -> None:
    rewrite(adapter, lambda tensors: tensors.pop("base_model.model.lm_head.lora_B.weight"))
    with pytest.raises(ModelError, match=r"lm_head\.lora_A\.weight has no lora_B"):
        read_adapter(adapter)


def test_an_empty_adapter_is_refused(adapter: Path, bases: ModuleType) -> None:
    rewrite(adapter, lambda tensors: tensors.clear())
    with pytest.raises(ModelError, match="no LoRA matrices"):
        load_adapter(Engine(bases.small_base("llama")), "again", adapter)


@pytest.mark.parametrize("other", ["gpt2", "qwen3_moe"])
def test_an_adapter_of_another_base_is_refused_and_leaves_no_policy(
    adapter: Path, bases: ModuleType, other: str
) -> None:
    engine = Engine(bases.small_base(other))
    with pytest.raises(ModelError, match=r"adapter: adapts model\.layers\..*this base does not have"):
        load_adapter(engine, "again", adapter)
    assert engine.policies == {}


def test_an_adapter_of_another_size_is_refused_and_leaves_no_policy(adapter: Path, bases: ModuleType) -> None:
    rewrite(adapter, lambda t: t.update({"base_model.model.lm_head.lora_B.weight": torch.zeros(65, 3)}))
    engine = Engine(bases.small_base("llama"))
    with pytest.raises(ModelError, match=r"lm_head has A \(3, 16\) and B \(65, 3\); this base needs .*\(64, 3\)"):
        load_adapter(engine, "again", adapter)
    assert engine.policies == {}


def test_only_a_lora_can_be_merged(bases: ModuleType) -> None:
    engine = Engine(bases.small_base("llama"))
    engine.add_policy("full", FullFT())
    with pytest.raises(ModelError, match="'full' is not a LoRA"):
        merge(engine, "full")


def test_writing_again_replaces_the_whole_folder(adapter: Path, engine: Engine) -> None:
    (adapter / "stale").touch()
    export_policy(engine, "lora", adapter)
    assert {path.name for path in adapter.iterdir()} == {CONFIG_NAME, WEIGHTS_NAME}
    assert [path.name for path in adapter.parent.iterdir()] == ["adapter"]
