"""Where a model's shapes come from: a folder, a .gguf file, a bundled base, the hub's cache, the catalogue."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from lowregret.errors import ModelError
from lowregret.plan.shapes.adapters import lora_parameters
from lowregret.plan.shapes.lookup import bundled_names, find_model
from lowregret.plan.shapes.weights import Shapes

_CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
    "torch_dtype": "float16",
}


def _folder(path: Path, config: dict[str, Any]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HUGGINGFACE_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub"


def test_a_folder(tmp_path: Path) -> None:
    shapes = find_model(str(_folder(tmp_path / "base", _CONFIG)))
    matrices = 3 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48)
    assert shapes.total == matrices + 64 * 32 + 7 * 32
    assert (shapes.family, shapes.layers, shapes.context, shapes.dtype) == ("llama", 3, 128, "float16")
    assert "config.json" in shapes.notes[0]


def test_the_bundled_base() -> None:
    shapes = find_model("tiny")
    assert "tiny" in bundled_names()
    assert (shapes.hidden_size, shapes.layers, shapes.vocabulary) == (128, 4, 1024)


def test_a_folder_comes_before_a_bundled_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _folder(tmp_path / "tiny", _CONFIG)
    assert find_model("tiny").hidden_size == 32


def test_a_hub_id_in_the_cache_is_the_snapshot_that_main_names(cache: Path) -> None:
    repository = cache / "models--someone--something"
    _folder(repository / "snapshots" / "new", _CONFIG)
    _folder(repository / "snapshots" / "old", {**_CONFIG, "num_hidden_layers": 2})
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("old")
    assert find_model("someone/something").layers == 2


def test_the_cache_comes_before_the_catalogue(cache: Path) -> None:
    _folder(cache / "models--Qwen--Qwen3-8B" / "snapshots" / "abc", _CONFIG)
    assert find_model("Qwen/Qwen3-8B").hidden_size == 32
    assert find_model("Qwen/Qwen3-4B").hidden_size == 2560


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("Qwen/Qwen3-8", "Qwen/Qwen3-8B"),
        ("lama-3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("gpt-oss-20", "openai/gpt-oss-20b"),
        ("tinny", "tiny"),
    ],
)
def test_a_wrong_name_suggests_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(ModelError, match=f"Did you mean {near}[,?]"):
        find_model(wrong)


def test_a_name_like_none_says_what_was_looked_for() -> None:
    with pytest.raises(ModelError, match=r"no folder, no \.gguf file") as caught:
        find_model("xxxxxxxxxxxx")
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
@pytest.mark.parametrize("family", ["llama", "unheard_of"])
def test_a_missing_key_is_named(tmp_path: Path, key: str, family: str) -> None:
    config = {**_CONFIG, "model_type": family}
    del config[key]
    with pytest.raises(ModelError, match=f"no {key}"):
        find_model(str(_folder(tmp_path, config)))


@pytest.mark.parametrize("value", ["many", -1, 2.5, True, 0])
def test_a_senseless_value_is_named(tmp_path: Path, value: object) -> None:
    with pytest.raises(ModelError, match="num_hidden_layers = "):
        find_model(str(_folder(tmp_path, {**_CONFIG, "num_hidden_layers": value})))


def test_an_unknown_architecture_is_laid_out_like_llama_and_says_so(tmp_path: Path) -> None:
    shapes = find_model(str(_folder(tmp_path / "a", {**_CONFIG, "model_type": "unheard_of"})))
    assert shapes.total == find_model(str(_folder(tmp_path / "b", _CONFIG))).total
    assert "unheard_of" in shapes.notes[-1]
    assert "estimate" in shapes.notes[-1]


def test_the_text_model_of_a_multimodal_one(tmp_path: Path) -> None:
    inner = {key: value for key, value in _CONFIG.items() if key not in ("tie_word_embeddings", "torch_dtype")}
    config = {"model_type": "llava", "text_config": inner, "tie_word_embeddings": True, "torch_dtype": "float16"}
    shapes = find_model(str(_folder(tmp_path / "a", config)))
    plain = find_model(str(_folder(tmp_path / "b", _CONFIG)))
    assert Counter(shapes.weights) == Counter(plain.weights)
    assert shapes.dtype == "float16"
    assert "multimodal llava" in shapes.notes[-1]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "damaged, or no JSON"), ("[]", "holds no JSON object"), ('{"is_encoder_decoder": true}', "decoder-only")],
)
def test_a_broken_configuration_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        find_model(str(tmp_path))


def test_a_folder_without_a_configuration_and_a_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        find_model(str(tmp_path))
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="is a file"):
        find_model(str(tmp_path / "weights.bin"))


# --- .gguf -----------------------------------------------------------------------------------------------------------


def _write_gguf(path: Path, architecture: str, metadata: dict[str, int], tensors: dict[str, tuple[int, ...]]) -> Path:
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_block_count(metadata["block_count"])
    for key, value in metadata.items():
        if key != "block_count":
            writer.add_uint32(f"{architecture}.{key}", value)
    writer.add_array("tokenizer.ggml.tokens", [f"token {index}" for index in range(5000)])
    writer.add_array("tokenizer.ggml.token_type", [1] * 5000)
    writer.add_string("general.name", "after the arrays")
    for name, shape in tensors.items():
        writer.add_tensor(name, np.zeros(shape, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _layer(number: int, experts: int = 0) -> dict[str, tuple[int, ...]]:
    block = f"blk.{number}."
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (32,),
        "ffn_norm.weight": (32,),
        "attn_q.weight": (32, 32),
        "attn_k.weight": (16, 32),
        "attn_v.weight": (16, 32),
        "attn_output.weight": (32, 32),
    }
    if experts:
        shapes["ffn_gate_inp.weight"] = (experts, 32)
        shapes |= {f"ffn_{part}_exps.weight": (experts, 48, 32) for part in ("gate", "up")}
        shapes["ffn_down_exps.weight"] = (experts, 32, 48)
    else:
        shapes |= {f"ffn_{part}.weight": (48, 32) for part in ("gate", "up")} | {"ffn_down.weight": (32, 48)}
    return {block + name: shape for name, shape in shapes.items()}


_METADATA = {
    "block_count": 3,
    "embedding_length": 32,
    "context_length": 128,
    "feed_forward_length": 48,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
}
_ENDS = {"token_embd.weight": (64, 32), "output_norm.weight": (32,), "rope_freqs.weight": (4,)}


def _sizes(shapes: Shapes) -> Counter[tuple[str, tuple[int, ...], int, int, bool]]:
    return Counter((w.kind, w.shape, w.copies, w.active, w.tied) for w in shapes.weights if w.kind != "other")


def test_a_gguf_file_is_the_model_that_was_converted(tmp_path: Path) -> None:
    tensors = _ENDS | _layer(0) | _layer(1) | _layer(2)
    shapes = find_model(str(_write_gguf(tmp_path / "base.gguf", "llama", _METADATA, tensors)))
    original = find_model(str(_folder(tmp_path / "base", _CONFIG)))
    assert _sizes(shapes) == _sizes(original)
    assert (shapes.total, shapes.active) == (original.total, original.active)
    assert (shapes.attention, shapes.context, shapes.vocabulary) == (original.attention, 128, 64)
    assert (shapes.family, shapes.dtype, shapes.intermediate_size) == ("llama", "float16", 48)
    for targets in ("all", "re:q_proj", ("unembedding",)):
        assert lora_parameters(shapes, 4, targets) == lora_parameters(original, 4, targets)


def test_a_gguf_file_with_experts(tmp_path: Path) -> None:
    metadata = _METADATA | {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 48}
    tensors = _ENDS | {"output.weight": (64, 32)} | _layer(0, 4) | _layer(1, 4) | _layer(2, 4)
    shapes = find_model(str(_write_gguf(tmp_path / "moe.gguf", "qwen3moe", metadata, tensors)))
    config = {**_CONFIG, "model_type": "unheard_of", "tie_word_embeddings": False, "num_experts": 4}
    original = find_model(str(_folder(tmp_path / "moe", {**config, "num_experts_per_tok": 2})))
    assert shapes.family == "qwen3_moe"
    assert _sizes(shapes) == _sizes(original)
    assert (shapes.experts, shapes.active_experts, shapes.active) == (4, 2, original.active)
    assert lora_parameters(shapes, 8, "all", "shared-outer") == lora_parameters(original, 8, "all", "shared-outer")


def test_a_gguf_file_that_is_none_or_cut_off_is_an_error(tmp_path: Path) -> None:
    whole = _write_gguf(tmp_path / "base.gguf", "llama", _METADATA, _ENDS | _layer(0))
    header = whole.read_bytes()[:2000]
    for content, message in (
        (b"", "cannot be read"),
        (b"not one, but long enough to look", "no GGUF"),
        (header, "cut off"),
    ):
        (tmp_path / "broken.gguf").write_bytes(content)
        with pytest.raises(ModelError, match=message):
            find_model(str(tmp_path / "broken.gguf"))
    with pytest.raises(ModelError, match="no such file"):
        find_model(str(tmp_path / "absent.gguf"))


def test_a_gguf_file_without_a_language_model_is_an_error(tmp_path: Path) -> None:
    file = _write_gguf(tmp_path / "vision.gguf", "clip", {"block_count": 1}, {"v.patch_embd.weight": (8, 8)})
    with pytest.raises(ModelError, match="no language model"):
        find_model(str(file))
