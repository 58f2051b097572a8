"""Small .gguf files of models of transformers, as llama.cpp's converter writes them, for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

SIZES: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 1023,
    "pad_token_id": 1021,
    "tie_word_embeddings": False,
}
"""With the vocabulary of the bundled tokenizer."""


def model(kind: str, seed: int = 0, **fields: Any) -> Any:
    """A model of transformers' class `kind` with random weights, all of them: norms and biases, too."""
    text = kind + "Text" if hasattr(transformers, f"{kind}TextConfig") else kind
    config = getattr(transformers, f"{text}Config")(**{**SIZES, **fields})
    torch.manual_seed(seed)
    made = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            weight.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.1)
    return made


def tensors(made: Any, architecture: str) -> dict[str, np.ndarray[Any, Any]]:
    """{llama.cpp's name: values} of a model, with the rearrangements of its converter."""
    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    names = gguf.get_tensor_name_map(arch, made.config.num_hidden_layers)
    found = {}
    for name, value in made.state_dict().items():
        if name == "lm_head.weight" and made.config.tie_word_embeddings:
            continue
        values = value.float().numpy()
        if ".mlp.experts." in name:
            block = f"blk.{name.split('.')[2]}"
            if name.endswith("gate_up_proj"):
                found |= dict(
                    zip(
                        (f"{block}.ffn_{part}_exps.weight" for part in ("gate", "up")),
                        np.split(values, 2, 1),
                        strict=True,
                    )
                )
            else:
                found[f"{block}.ffn_down_exps.weight"] = values
            continue
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None, name
        if architecture == "llama" and (".attn_q." in stored or ".attn_k." in stored):
            heads = made.config.num_attention_heads if ".attn_q." in stored else made.config.num_key_value_heads
            values = values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
        if stored.endswith("ffn_gate_inp_shexp.weight"):
            values = values[0]
        if architecture in ("gemma2", "gemma3", "nemotron") and stored.endswith("norm.weight"):
            values = values + 1
        found[stored] = values
    return found


def fields(made: Any) -> dict[str, Any]:
    """The keys that every converter writes of a model with rotary positions, without the family's name."""
    config = made.config
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    norm = {"attention.layer_norm_rms_epsilon": float(config.rms_norm_eps)} if hasattr(config, "rms_norm_eps") else {}
    return norm | {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.freq_base": float(rope["rope_theta"]),
        "rope.dimension_count": int(head_dim * rope.get("partial_rotary_factor", 1)),
        "vocab_size": config.vocab_size,
    }


def write(
    path: Path,
    architecture: str,
    stored: Mapping[str, np.ndarray[Any, Any]],
    said: Mapping[str, Any],
    kinds: Mapping[str, gguf.GGMLQuantizationType] | None = None,
    split: tuple[int, int, int] | None = None,
) -> Path:
    """A file of these tensors and keys; `kinds`: of tensors that are given as the bytes of their blocks; `split`:
    (number from 0, count, tensors in all) of a part, of which all but the first have no other keys."""
    writer = gguf.GGUFWriter(path, architecture)
    if split is not None:
        writer.add_uint16("split.no", split[0])
        writer.add_uint16("split.count", split[1])
        writer.add_int32("split.tensors.count", split[2])
    if split is None or split[0] == 0:
        writer.add_name("small")
        for key, value in said.items():
            add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
            add.get(type(value), writer.add_array)(f"{architecture}.{key}", value)
        _add_tokenizer(writer)
    else:
        writer.kv_data[0].pop("general.architecture")
    for name, values in stored.items():
        kind = (kinds or {}).get(name)
        writer.add_tensor(name, values if kind is not None else values.astype(np.float32), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


SCALES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,), "IQ3_S": (0,), "IQ3_XXS": (0,),
    "IQ2_S": (0,), "IQ2_XS": (0,), "IQ2_XXS": (0,), "IQ1_S": (0,),
}  # fmt: skip
"""Where in a block its scales are, which are half floats (ggml, ggml-common.h)."""


def blocks(kind: str, shape: Sequence[int], seed: int) -> np.ndarray[Any, Any]:
    """Random blocks of a quantisation, [..., bytes of a row], with small scales and anything else."""
    size, width = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    generator = np.random.default_rng(seed)
    found = generator.integers(0, 256, (*shape[:-1], shape[-1] // size, width), dtype=np.uint8)
    for start in SCALES[kind]:
        scales = generator.uniform(0.0005, 0.001, found.shape[:-1]).astype("<f2")
        found[..., start : start + 2] = scales[..., None].view(np.uint8)
    return found.reshape(*shape[:-1], -1)


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    folder = str(resources.files("lowregret.models") / "bundled" / "tiny")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inner = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = tokenizer.convert_ids_to_tokens(list(range(1024)))
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in inner["merges"]])
    writer.add_eos_token_id(1023)
    writer.add_pad_token_id(1021)
