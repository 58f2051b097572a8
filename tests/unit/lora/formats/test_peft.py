"""Adapters on disk: what is written is read back, and what cannot be read says why."""

from __future__ import annotations

import json
import os
import re
import stat
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
        ({"init_lora_weights": "brand_new"}, "init_lora_weights is 'brand_new', which is not known here"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is .*whole matrices.*merge_and_unload"),
        ({"bias": "all"}, "bias is 'all'.*merge_and_unload"),
        ({"alora_invocation_tokens": [1022]}, "alora_invocation_tokens is .*aLoRA.*Give a plain LoRA"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication is .*repeated layers"),
        ({"trainable_token_indices": {"embed_tokens": [1]}}, "trainable_token_indices is"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"use_qalora": True}, "use_qalora is True"),
        ({"ensure_weight_tying": True}, "ensure_weight_tying is True"),
        ({"kasa_config": {"beta": 1}}, "kasa_config is"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora is"),
        ({"arrow_config": {"top_k": 2}}, "arrow_config is"),
        ({"enable_lora": [True, False]}, "enable_lora is .*not known here"),
        ({"of_next_year": {"a": 1}}, "of_next_year is .*not known here, and may change"),
    ],
)
def test_variants_that_would_be_read_wrong_are_refused(adapter: Path, fields: dict[str, Any], words: str) -> None:
    change(adapter, **fields)
    with pytest.raises(ModelError, match=f"{CONFIG_NAME}: {words}"):
        read_adapter(adapter)


@pytest.mark.parametrize(
    "fields",
    [
        {"megatron_core": "megatron.core", "qalora_group_size": 16, "use_qalora": False, "lora_bias": False},
        {"auto_mapping": {"unsloth_fixed": True}, "revision": "main", "peft_version": "0.99", "task_type": None},
        {"loftq_config": {"loftq_bits": 4}, "eva_config": {"rho": 2}, "corda_config": {}, "velora_config": {"rank": 1}},
        {"lora_dtype": None, "lorap_lr_ratio": None, "lorap_emb_lr": 1e-06, "of_next_year": None, "another": False},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "eva"},
        {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {r"layers\.0\..*": 3}},
    ],
)
def test_fields_that_say_nothing_about_what_it_computes_pass(
    adapter: Path, bases: ModuleType, fields: dict[str, Any]
) -> None:
    plain = bases.weights(load_adapter(Engine(bases.small_base("llama")), "again", adapter))
    change(adapter, **fields)
    assert bases.same(bases.weights(load_adapter(Engine(bases.small_base("llama")), "again", adapter)), plain)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rank_pattern": {"q_proj": 4}}, r"r is 4, but the matrix A of .*q_proj has rank 3"),
        ({"alpha_pattern": {"q_proj": "high"}}, r"alpha_pattern is .*'high'.*a table of numbers is needed"),
        ({"alpha_pattern": {"q_proj": 0}}, r"the alpha 0"),
        ({"rank_pattern": {"(": 4}}, r"its pattern .* cannot be matched"),
        ({"alpha_pattern": {"q_proj": 9}, "init_lora_weights": "pissa"}, r"alpha_pattern are not supported with"),
        ({"exclude_modules": ["q_proj"]}, r"has .*q_proj, which adapter_config\.json does not select"),
        ({"layers_to_transform": 1}, r"has lm_head, which adapter_config\.json does not select"),
        ({"target_modules": ["q_proj"]}, r"has lm_head, which adapter_config\.json does not select"),
    ],
)
def test_patterns_and_selections_that_the_weights_do_not_follow_are_refused(
    adapter: Path, bases: ModuleType, fields: dict[str, Any], words: str
) -> None:
    change(adapter, **fields)
    engine = Engine(bases.small_base("llama"))
    with pytest.raises(ModelError, match=words):
        load_adapter(engine, "again", adapter)
    assert engine.policies == {}


@pytest.mark.parametrize("targets", [None, r".*\.(q|k|v|o|up|down|gate)_proj|lm_head", ["q_proj", "lm_head"]])
def test_a_file_that_lacks_a_layer_is_told_with_a_count(adapter: Path, bases: ModuleType, targets: Any) -> None:
    """What a save that was cut off leaves; PEFT warns of missing adapter keys."""
    change(adapter, target_modules=targets)
    kept = ("q_proj", "lm_head") if isinstance(targets, list) else ("",)
    rewrite(adapter, lambda t: [t.pop(k) for k in list(t) if not any(part in k for part in kept)])
    rewrite(adapter, lambda tensors: [tensors.pop(key) for key in list(tensors) if ".layers.1." in key])
    lines: list[str] = []
    load_adapter(Engine(bases.small_base("llama")), "again", adapter, lines.append)
    lacking, whole = (1, 3) if isinstance(targets, list) else (7, 15)
    assert len(lines) == 1
    assert f"lacks {lacking} of the {whole} matrices" in lines[0]
    assert "the first is model.layers.1.self_attn.q_proj" in lines[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"layers_to_transform": [0]},
        {"layers_to_transform": 0, "layers_pattern": "layers"},
        {"exclude_modules": r"model\.layers\.1\..*"},
        {"exclude_modules": [f"layers.1.self_attn.{name}_proj" for name in "qk"]},
    ],
)
def test_layers_that_were_left_out_on_purpose_are_not_missing(
    adapter: Path, bases: ModuleType, fields: dict[str, Any]
) -> None:
    rewrite(
        adapter, lambda t: [t.pop(k) for k in list(t) if "layers.0.self_attn.q" not in k and "0.self_attn.k" not in k]
    )
    change(adapter, target_modules=["q_proj", "k_proj"], **fields)
    lines: list[str] = []
    load_adapter(Engine(bases.small_base("llama")), "again", adapter, lines.append)
    assert lines == []


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("llama", False),
        ("Meta/LLAMA", False),
        ("/data/models--meta--Llama/snapshots/0a1b", False),
        ("./llama/", False),
        (None, False),
        ("", False),
        ("unsloth/llama-bnb-4bit", True),
        ("gpt2", True),
    ],
)
def test_an_adapter_of_a_base_of_another_name_is_told(
    adapter: Path, bases: ModuleType, named: str | None, told: bool
) -> None:
    change(adapter, base_model_name_or_path=named)
    lines: list[str] = []
    load_adapter(Engine(bases.small_base("llama")), "again", adapter, lines.append)
    assert bool(lines) is told
    assert not told or f"made on {named}; it is put on llama" in lines[0]


def test_copies_of_the_bases_weights_are_compared_and_passed_over(adapter: Path, bases: ModuleType) -> None:
    """PEFT saves them of an adapted unembedding, of a resized embedding, or when it is told to."""
    own = bases.small_base("llama").model.state_dict()
    plain = bases.weights(load_adapter(Engine(bases.small_base("llama")), "again", adapter))
    prefix = "base_model.model."
    copies = {
        prefix + "lm_head.base_layer.weight": own["lm_head.weight"].clone(),
        prefix + "model.embed_tokens.weight": own["model.embed_tokens.weight"].bfloat16(),
        prefix + "model.layers.0.mlp.up_proj.base_layer.weight": own["model.layers.0.mlp.up_proj.weight"].clone(),
    }
    rewrite(adapter, lambda tensors: tensors.update(copies))
    assert bases.same(bases.weights(load_adapter(Engine(bases.small_base("llama")), "again", adapter)), plain)
    trained = copies[prefix + "model.embed_tokens.weight"].clone()
    trained[3] += 1
    resized = torch.cat([trained, trained[:2]])
    for other, words in ((trained, "with other values than this base has"), (resized, r"as \(66, 16\); this base has")):
        rewrite(adapter, lambda t, other=other: t.update({prefix + "model.embed_tokens.weight": other}))
        engine = Engine(bases.small_base("llama"))
        with pytest.raises(ModelError, match=f"holds model.embed_tokens.weight.* {words}"):
            load_adapter(engine, "again", adapter)
        assert engine.policies == {}


@pytest.mark.parametrize("file", [CONFIG_NAME, WEIGHTS_NAME])
@pytest.mark.parametrize("damage", ["missing", "empty", "broken"])
def test_a_damaged_adapter_is_refused(adapter: Path, file: str, damage: str) -> None:
    if damage == "missing":
        (adapter / file).unlink()
    else:
        (adapter / file).write_bytes(b"" if damage == "empty" else b"{ broken")
    with pytest.raises(ModelError, match="adapter"):
        read_adapter(adapter)


def test_tensors_that_are_no_lora_are_refused(adapter: Path, engine: Engine) -> None:
    for key in ("model.embed_tokens.lora_embedding_A", "lm_head.lora_B.bias", "lm_head.modules_to_save.weight"):
        rewrite(adapter, lambda t, key=key: t.update({f"base_model.model.{key}": torch.zeros(3)}))
        with pytest.raises(ModelError, match=rf"more than LoRA matrices: base_model\.model\.{re.escape(key)} \(1 in"):
            read_adapter(adapter)
        rewrite(adapter, lambda t, key=key: t.pop(f"base_model.model.{key}"))
    rewrite(adapter, lambda t: t.update({"base_model.model.score.weight": torch.zeros(3)}))
    with pytest.raises(ModelError, match=r"holds score\.weight, which is neither a LoRA nor a weight of this base"):
        load_adapter(engine, "again", adapter)


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
    assert {path.name for path in adapter.iterdir()} == {CONFIG_NAME, WEIGHTS_NAME, "generation_config.json"}
    assert [path.name for path in adapter.parent.iterdir()] == ["adapter"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_who_may_read_what_is_shipped_is_what_the_umask_says(
    bases: ModuleType, engine: Engine, method: str, umask: int, mode: int, tmp_path: Path
) -> None:
    """safetensors leaves its files at 0600, which a web server or another user cannot read."""
    if method == "full":
        engine = Engine(bases.small_base("llama"))
        engine.add_policy("full", FullFT())
    before = os.umask(umask)
    try:
        export_policy(engine, method, tmp_path / "out")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert any(name.endswith(".safetensors") for name in modes)
    assert set(modes.values()) == {mode}
