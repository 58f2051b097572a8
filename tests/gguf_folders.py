"""Small models with tokenizers of each kind in Hugging Face folders, to be written as GGUF; imported by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from gguf_files import model

WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
HUMPS = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
CUTS: Mapping[str, tuple[Any, bool]] = {
    "gpt-2": ({**_BYTES, "use_regex": True}, False),
    "smollm": (
        {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, {**_BYTES, "use_regex": True}],
        },
        False,
    ),
    "llama-bpe": (
        {"type": "Sequence", "pretokenizers": [_split(rf"{SUFFIX}|{WORDS}|\p{{N}}{{1,3}}|{REST}"), _BYTES]},
        True,
    ),
    "smaug-bpe": (
        {"type": "Sequence", "pretokenizers": [_split(rf"{SUFFIX}|{WORDS}|\p{{N}}{{1,3}}|{REST}"), _BYTES]},
        False,
    ),
    "qwen2": ({"type": "Sequence", "pretokenizers": [_split(rf"{SUFFIX}|{WORDS}|\p{{N}}|{REST}"), _BYTES]}, False),
    "tekken": ({"type": "Sequence", "pretokenizers": [_split(rf"{HUMPS}|\p{{N}}|{SLASH}"), _BYTES]}, True),
    "gpt-4o": (
        {
            "type": "Sequence",
            "pretokenizers": [
                _split("|".join(f"{part}{SUFFIX}?" for part in HUMPS.split("|")) + rf"|\p{{N}}{{1,3}}|{SLASH}"),
                _BYTES,
            ],
        },
        False,
    ),
}
"""llama.cpp's name → (how a tokenizer.json of such a model cuts, whether it ignores merges for whole words)."""

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CORPUS = (
    "The capital of France is Paris, and where was she born? I'll don't we're 2024-11-28, $5.00 (a/b) 100%.\n\n"
    "def f(x):\n    return x**2  # the end\r\n  leading  blanks and\ttabs; straße Привет мир naïve café 東京 नमस्ते\n"
) * 8 + (Path(__file__).parents[1] / "docs" / "design.md").read_text(encoding="utf-8")
"""What their tokenizers are trained on: what tests ask them to read, and some English."""


def byte_level(cut: str, rows: int = 1024) -> PreTrainedTokenizerFast:
    """A byte-level BPE that is trained on little text and cuts as the models of this pre-tokenizer do."""
    how, whole = CUTS[cut]
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    plain.train_from_iterator([_CORPUS], trainers.BpeTrainer(vocab_size=rows - 8, initial_alphabet=alphabet))
    content = json.loads(plain.to_str())
    content["pre_tokenizer"] = how
    content["model"]["ignore_merges"] = whole
    backend = Tokenizer.from_str(json.dumps(content))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def sentencepiece(scheme: str, rows: int = 1024) -> PreTrainedTokenizerFast:
    """SentencePiece's BPE as tokenizer.json has it; `scheme`: `every`, a blank before each text (Llama 2), `first`,
    before the first alone, `none` (Gemma)."""
    plain = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    plain.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    plain.train_from_iterator([_CORPUS], trainers.BpeTrainer(vocab_size=rows - 8, special_tokens=specials))
    content = json.loads(plain.to_str())
    vocabulary = content["model"]["vocab"]
    made = ["".join(pair) for pair in content["model"]["merges"]]
    content["model"]["merges"] = [
        [piece[:cut], piece[cut:]]
        for piece in dict.fromkeys(made)
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < 3]
    backend = Tokenizer.from_str(json.dumps(content))
    replaced = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = None  # type: ignore[assignment]
    if scheme == "every":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replaced])
    elif scheme == "first":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        backend.normalizer = replaced
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


_ROPE = {"rope_theta": 1e4}
_LLAMA3 = {
    **_ROPE, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
_GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8, "tie_word_embeddings": True}
BASES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"rope_parameters": _LLAMA3}),
    "llama, linear": ("Llama", {"rope_parameters": {**_ROPE, "rope_type": "linear", "factor": 4.0}}),
    "llama, biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "mistral": ("Mistral", {"head_dim": 32, "sliding_window": 256}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3, yarn": (
        "Qwen3",
        {
            "head_dim": 32,
            "rope_parameters": {
                **_ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128,
            },
        },
    ),
    "qwen3moe": (
        "Qwen3Moe",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True},
    ),
    "gemma2": ("Gemma2", {**_GEMMA, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("Gemma3", {**_GEMMA, "num_hidden_layers": 7, "num_key_value_heads": 1}),
}  # fmt: skip
"""Name → class of transformers, fields of its configuration."""
PIECES = {"mistral": "every", "llama, linear": "first", "gemma2": "none", "gemma3": "none"}
"""Which of them have SentencePiece."""


def folder(name: str, place: Path, tokenizer: Any = None, **fields: Any) -> tuple[Path, Any, Any]:
    """(a folder, its model, its tokenizer) of one of BASES."""
    kind, own = BASES[name]
    made = model(kind, **{**own, **fields})
    if tokenizer is None:
        tokenizer = sentencepiece(PIECES[name]) if name in PIECES else byte_level("qwen2")
    with torch.no_grad():  # an answer that is sure of itself shows a difference best
        made.get_output_embeddings().weight.mul_(1.0 if made.config.tie_word_embeddings else 5.0)
    made.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place, made, tokenizer
