"""A .gguf base is the Hugging Face base that it was made from, whatever its reader leaves out; or it is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from lowregret.errors import ModelError
from lowregret.models.load import load_base, resolve

LAYERS, HIDDEN, HEADS, SIZE = 2, 256, 4, 32
"""Heads of 32, where 256 / 4 is 64 and the family's default 128."""
Q = gguf.GGMLQuantizationType


def qwen3(**more: Any) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=1024,
        hidden_size=HIDDEN,
        intermediate_size=256,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=SIZE,
        max_position_embeddings=512,
        rope_parameters={"rope_theta": 10000.0, "rope_type": "default", **more},
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    return Qwen3ForCausalLM(config).eval()


def write(
    path: Path,
    model: Qwen3ForCausalLM,
    *,
    extra: Mapping[str, np.ndarray[Any, Any]] | None = None,
    metadata: Mapping[str, Any] | None = None,
    blocks: Mapping[str, tuple[gguf.GGMLQuantizationType, np.ndarray[Any, Any]]] | None = None,
    parts: int = 0,
) -> None:
    """The model as llama.cpp's converter writes it, with the tokenizer of `tiny`; `parts` tensors to a file."""
    writer = gguf.GGUFWriter(path, "qwen3", split_max_tensors=parts)
    config = model.config
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_key_length(SIZE)
    writer.add_value_length(SIZE)
    tokenizer = json.loads((Path(resolve("tiny").path) / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.__getitem__))
    writer.add_token_types([1] * 1021 + [3] * 3)
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(1023)
    for key, value in (metadata or {}).items():
        writer.add_string(key, value) if isinstance(value, str) else writer.add_float32(key, value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, LAYERS)
    for name, weight in model.state_dict().items():
        found = names.get_name(name, try_suffixes=(".weight",))
        if found is None or name == "lm_head.weight":
            continue
        if found in (blocks or {}):
            kind, data = (blocks or {})[found]
            writer.add_tensor(found, data, raw_dtype=kind)
        else:
            writer.add_tensor(found, weight.numpy().astype(np.float32))
    for name, data in (extra or {}).items():
        writer.add_tensor(name, data.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama3_factors(count: int, base: float, factor: float, original: int) -> np.ndarray[Any, Any]:
    """By what Llama 3.1 divides each of `count` frequencies, as llama.cpp's converter writes them."""
    turns = original / (2 * np.pi * base ** (np.arange(count) / count))
    smooth = np.clip((turns - 1) / 3, 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(1, 1001, 5)[None]  # 200 positions
    found: torch.Tensor = model(input_ids=ids).logits
    return found


def test_a_file_is_the_folder_that_it_was_made_from_heads_of_any_size(tmp_path: Path) -> None:
    model = qwen3()
    write(tmp_path / "m.gguf", model)
    torch.testing.assert_close(logits(load_base(resolve(str(tmp_path / "m.gguf"))).model), logits(model))


def test_factors_in_a_tensor_are_llama_3s_scaling(tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    model = qwen3(**scaling, original_max_position_embeddings=64)
    factors = llama3_factors(SIZE // 2, 10000.0, 8.0, 64)
    write(tmp_path / "m.gguf", model, extra={"rope_freqs.weight": factors})
    base = load_base(resolve(str(tmp_path / "m.gguf")))
    torch.testing.assert_close(logits(base.model), logits(model))
    assert not torch.allclose(logits(model), logits(qwen3()), atol=1e-2), "the scaling matters at these positions"
    base.model.save_pretrained(tmp_path / "saved")  # what is exported keeps it
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "saved")), logits(model))


@pytest.mark.parametrize(("kind", "more"), [("linear", {}), ("yarn", {"original_max_position_embeddings": 64})])
def test_a_scaling_in_the_metadata_is_read(tmp_path: Path, kind: str, more: dict[str, Any]) -> None:
    model = qwen3(rope_type=kind, factor=4.0, **more)
    told = {"qwen3.rope.scaling.type": kind, "qwen3.rope.scaling.factor": 4.0}
    if more:
        told["qwen3.rope.scaling.original_context_length"] = 64.0
    write(tmp_path / "m.gguf", model, metadata=told)
    torch.testing.assert_close(logits(load_base(resolve(str(tmp_path / "m.gguf"))).model), logits(model))


def test_what_nothing_reads_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", qwen3(), extra={"blk.0.attn_strange.weight": np.ones(4)})
    with pytest.raises(ModelError, match=r"blk\.0\.attn_strange\.weight is in the file, and .* has no place for it"):
        load_base(resolve(str(tmp_path / "m.gguf")))
    write(tmp_path / "s.gguf", qwen3(), metadata={"qwen3.rope.scaling.type": "odd", "qwen3.rope.scaling.factor": 2.0})
    with pytest.raises(ModelError, match=r"rope\.scaling\.type.*odd"):
        load_base(resolve(str(tmp_path / "s.gguf")))


def test_a_split_model_is_loaded_whole_and_its_parts_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = qwen3()
    write(tmp_path / "m.gguf", model, parts=9)
    parts = sorted(tmp_path.glob("m-*.gguf"))
    assert len(parts) > 2
    monkeypatch.chdir(tmp_path)
    torch.testing.assert_close(logits(load_base(resolve(parts[0].name)).model), logits(model))
    with pytest.raises(ModelError, match=r"is part 2 of 3 of a split model\. Name the first"):
        load_base(resolve(str(parts[1])))
    parts[1].unlink()
    with pytest.raises(ModelError, match=r"m-00002-of-00003\.gguf is not beside it"):
        load_base(resolve(str(parts[0])))


def test_a_file_of_the_same_name_in_the_working_folder_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = qwen3()
    (tmp_path / "here").mkdir()
    write(tmp_path / "m.gguf", model)
    other = qwen3()
    other.model.norm.weight.data.mul_(3)
    write(tmp_path / "here" / "m.gguf", other)
    monkeypatch.chdir(tmp_path / "here")
    torch.testing.assert_close(logits(load_base(resolve(str(tmp_path / "m.gguf"))).model), logits(model))


def random_blocks(shape: Sequence[int], kind: gguf.GGMLQuantizationType) -> np.ndarray[Any, Any]:
    """Blocks of this kind whose scales, 16-bit floats, are small and finite."""
    values, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(0).integers(0, 256, (shape[0], shape[1] // values, size), dtype=np.uint8)
    scale = np.frombuffer(np.float16(1e-3).tobytes(), np.uint8)
    for place in {Q.Q2_K: (80, 82), Q.Q3_K: (108,), Q.Q4_K: (0, 2), Q.Q5_K: (0, 2), Q.Q6_K: (208,), Q.Q8_0: (0,)}[kind]:
        blocks[..., place : place + 2] = scale
    return blocks.reshape(shape[0], -1)


@pytest.mark.parametrize("kind", [Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K, Q.Q8_0])
def test_quantised_tensors_are_what_their_library_makes_of_them(
    tmp_path: Path, kind: gguf.GGMLQuantizationType
) -> None:
    data = random_blocks((256, HIDDEN), kind)
    write(tmp_path / "m.gguf", qwen3(), blocks={"blk.0.ffn_up.weight": (kind, data)})
    weight = load_base(resolve(str(tmp_path / "m.gguf"))).model.state_dict()["model.layers.0.mlp.up_proj.weight"]
    torch.testing.assert_close(weight, torch.from_numpy(gguf.dequantize(data, kind)).float())
    assert float(weight.abs().max()) > 1e-4
