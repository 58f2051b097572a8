"""A model's configuration as the keys by which llama.cpp builds it, for the families that are written here.

What llama.cpp takes for granted of a family is checked, not assumed: a configuration that says otherwise would compute
something else there and is refused (llama.cpp, src/models/ and src/llama-model.cpp, `load_hparams`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gguf
from transformers import AutoConfig

from lowregret.errors import ModelError
from lowregret.export.gguf.rope import rope_keys
from lowregret.foreign import boundary

SERVE = "Serve the merged model with transformers or vLLM instead (lowregret merge)."
_LARGE_GEMMA = {"gemma2": 46, "gemma3": 62}
"""Layers of the models whose attention llama.cpp scales by hidden size / heads instead of the head's width."""
_WINDOW = (
    "llama.cpp attends to all tokens where this model's window ends: the file's context_length is the window, within "
    "which both are the same"
)


@dataclass(frozen=True)
class Architecture:
    """A model as llama.cpp knows it."""

    name: str
    """`general.architecture`."""
    layers: int
    heads: int
    kv_heads: int
    permuted: bool
    """Whether the rows of queries and keys are stored as interleaved pairs."""
    norms_from_one: bool
    """Whether norms are stored as weights to add to one, and llama.cpp wants the sum (Gemma)."""
    may_untie: bool
    """Whether the family has an unembedding of its own in llama.cpp."""
    rows: int
    """Of the embedding."""
    keys: Mapping[str, Any] = field(default_factory=dict)
    """Without the name of the family before them."""
    factors: tuple[float, ...] = ()
    """By which the rotary frequencies are divided (`rope_freqs.weight`)."""
    notes: tuple[str, ...] = ()

    @property
    def arch(self) -> Any:
        """gguf's number of the family."""
        return next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == self.name)


def architecture(stated: Mapping[str, Any], place: str) -> Architecture:
    """The family of a config.json; ModelError, naming the field, where llama.cpp would compute something else."""
    kind = stated.get("model_type")
    if kind not in _FAMILIES:
        raise ModelError(
            f"{place}: model_type is {kind!r}; GGUF files are written of {', '.join(sorted(_FAMILIES))}. {SERVE}"
        )
    with boundary(ModelError, place, "config.json cannot be read", "Fetch its files again."):
        config = AutoConfig.for_model(**dict(stated))
    name, own = _FAMILIES[str(kind)]
    check = _Check(config, place)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys, factors = rope_keys(config, width, place, nested=name == "gemma3")
    keys |= {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "attention.key_length": width,
        "attention.value_length": width,
        "rope.dimension_count": width,
        "vocab_size": config.vocab_size,
    }
    notes = own(check, keys, width)
    return Architecture(
        name=name,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        permuted=name == "llama",
        norms_from_one=name.startswith("gemma"),
        may_untie=name != "gemma2",
        rows=config.vocab_size,
        keys=keys,
        factors=factors,
        notes=tuple(notes),
    )


class _Check:
    """A configuration whose fields must be what llama.cpp takes for granted."""

    def __init__(self, config: Any, place: str) -> None:
        self.config = config
        self.place = place

    def __getattr__(self, name: str) -> Any:
        return getattr(self.config, name, None)

    def must(self, name: str, *values: Any) -> None:
        """The field has one of these values, or there is none."""
        found = getattr(self.config, name, values[0])
        if found not in values:
            raise ModelError(
                f"{self.place}: config.json says {name} = {found!s:.60}; llama.cpp computes this family with "
                f"{' or '.join(map(str, values))} alone. {SERVE}"
            )

    def must_slide(self, pattern: Callable[[int], bool]) -> None:
        """Exactly the layers for which the pattern holds have a window."""
        wanted = ["sliding_attention" if pattern(n) else "full_attention" for n in range(self.num_hidden_layers)]
        self.must("layer_types", wanted)


def _llama(check: _Check, keys: dict[str, Any], width: int) -> list[str]:
    check.must("hidden_act", "silu")
    window = check.sliding_window
    if window and window < check.max_position_embeddings:
        keys["context_length"] = window
        return [_WINDOW]
    return []


def _qwen(check: _Check, keys: dict[str, Any], width: int) -> list[str]:
    check.must("hidden_act", "silu")
    check.must("use_sliding_window", False, None)
    return []


def _qwen_moe(check: _Check, keys: dict[str, Any], width: int) -> list[str]:
    check.must("norm_topk_prob", True)
    check.must("decoder_sparse_step", 1)
    check.must("mlp_only_layers", [], None)
    keys |= {
        "expert_count": check.num_experts,
        "expert_used_count": check.num_experts_per_tok,
        "expert_feed_forward_length": check.moe_intermediate_size,
    }
    return _qwen(check, keys, width)


def _gemma(check: _Check, keys: dict[str, Any], width: int, name: str) -> None:
    large = check.num_hidden_layers == _LARGE_GEMMA[name]
    check.must("query_pre_attn_scalar", check.hidden_size // check.num_attention_heads if large else width)
    check.must("hidden_activation", "gelu_pytorch_tanh")
    check.must("use_bidirectional_attention", False, None)
    check.must("attention_bias", False)
    keys["attention.sliding_window"] = check.sliding_window


def _gemma2(check: _Check, keys: dict[str, Any], width: int) -> list[str]:
    _gemma(check, keys, width, "gemma2")
    check.must_slide(lambda layer: layer % 2 == 0)
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        cap = getattr(check.config, name)
        if not cap:
            raise ModelError(f"{check.place}: config.json says no {name}; llama.cpp caps every Gemma 2. {SERVE}")
        keys[name] = float(cap)
    return []


def _gemma3(check: _Check, keys: dict[str, Any], width: int) -> list[str]:
    _gemma(check, keys, width, "gemma3")
    check.must_slide(lambda layer: (layer + 1) % 6 != 0)
    check.must("attn_logit_softcapping", None)
    check.must("final_logit_softcapping", None)
    return []


_FAMILIES: Mapping[str, tuple[str, Callable[[_Check, dict[str, Any], int], list[str]]]] = {
    "llama": ("llama", _llama),
    "mistral": ("llama", _llama),
    "qwen2": ("qwen2", _qwen),
    "qwen3": ("qwen3", _qwen),
    "qwen3_moe": ("qwen3moe", _qwen_moe),
    "gemma2": ("gemma2", _gemma2),
    "gemma3_text": ("gemma3", _gemma3),
}
"""model_type → llama.cpp's family, and what else it needs or takes for granted."""
