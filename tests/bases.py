"""Small bases made in code, one for each way in which transformers lays out a decoder, and what tests do with them.

Loaded by path through the `bases` fixture, because test folders are not packages.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from lowregret.data.example import Example
from lowregret.engine import Engine
from lowregret.lora.forms import FORMS, carrier_name, form_of
from lowregret.models.load import Base, Source
from lowregret.spec import LoRA

VOCABULARY = 64
EVERYTHING = ("attention", "mlp", "unembedding")
DENSE = ("llama", "qwen3", "gemma2", "gpt2", "phi3", "gpt_neox", "opt")
MIXTURES = ("qwen3_moe", "mixtral", "olmoe", "qwen2_moe", "gpt_oss", "deepseek_v3")

STATES = ("mamba", "mamba2", "falcon_mamba", "minimax", "recurrent_gemma", "rwkv", "openai_gpt")
"""Bases that cannot be sampled with transformers' standard cache, or have none."""

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    # The usual 0.02 makes a base this small nearly linear, and its logits nearly equal.
    "initializer_range": 0.25,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
GROUPED = {**_SHAPE, "num_key_value_heads": 1}
"""Of a base whose query heads share a key/value head."""


def small_config(architecture: str) -> PretrainedConfig:
    """The configuration of one small base."""
    if architecture == "llama":
        return transformers.LlamaConfig(**GROUPED, tie_word_embeddings=False)
    if architecture == "qwen3":
        return transformers.Qwen3Config(**GROUPED, head_dim=8, tie_word_embeddings=True)
    if architecture == "gemma2":
        # Low caps and a short window, so that both bite.
        capped = {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 2.0, "sliding_window": 6}
        return transformers.Gemma2Config(**GROUPED, **capped, head_dim=8, query_pre_attn_scalar=8)
    if architecture == "gpt2":
        return transformers.GPT2Config(**_SHAPE)
    if architecture == "phi3":
        return transformers.Phi3Config(**GROUPED, tie_word_embeddings=False)
    if architecture == "gpt_neox":
        return transformers.GPTNeoXConfig(**_SHAPE, tie_word_embeddings=False)
    if architecture == "opt":
        narrow = {"ffn_dim": 32, "word_embed_proj_dim": 16, "init_std": 0.25}
        return transformers.OPTConfig(**_SHAPE, **narrow)
    if architecture == "qwen3_moe":
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
        return transformers.Qwen3MoeConfig(**GROUPED, **experts, head_dim=8)
    if architecture == "mixtral":
        return transformers.MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2)
    if architecture == "olmoe":
        return transformers.OlmoeConfig(**GROUPED, num_experts=4, num_experts_per_tok=2)
    if architecture == "qwen2_moe":
        shared = {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 24}
        return transformers.Qwen2MoeConfig(**GROUPED, **shared, num_experts=4, num_experts_per_tok=2)
    if architecture == "gpt_oss":
        # Transposed, interleaved, with biases, and attention with sinks.
        return transformers.GptOssConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2, head_dim=8)
    if architecture == "deepseek_v3":
        latent = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
        routed = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1}
        rest = {"topk_group": 1, "first_k_dense_replace": 1, "num_key_value_heads": 2, "n_shared_experts": 1}
        return transformers.DeepseekV3Config(**_SHAPE, **latent, **routed, **rest)
    if architecture in STATES:
        return _of_states(architecture)
    raise ValueError(architecture)


def _of_states(architecture: str) -> PretrainedConfig:
    """The configuration of a small base without transformers' standard cache."""
    scan = {key: value for key, value in _SHAPE.items() if key not in ("num_attention_heads", "intermediate_size")}
    if architecture == "mamba":
        return transformers.MambaConfig(**scan, state_size=4)
    if architecture == "falcon_mamba":
        return transformers.FalconMambaConfig(**scan, state_size=4)
    if architecture == "mamba2":
        return transformers.Mamba2Config(**scan, state_size=4, num_heads=4, head_dim=8, n_groups=1, chunk_size=4)
    if architecture == "minimax":
        layers = {"layer_types": ["linear_attention", "full_attention"], "head_dim": 8, "block_size": 4}
        return transformers.MiniMaxConfig(**GROUPED, **layers, num_local_experts=4, num_experts_per_tok=2)
    if architecture == "recurrent_gemma":
        layers = {"block_types": ["recurrent", "attention"], "lru_width": 16, "attention_window_size": 6}
        return transformers.RecurrentGemmaConfig(**GROUPED, **layers)
    if architecture == "rwkv":
        return transformers.RwkvConfig(**scan, context_length=64)
    return transformers.OpenAIGPTConfig(**_SHAPE)


def small_model(architecture: str, seed: int = 0) -> PreTrainedModel:
    """Random weights; biases and norms too, so that none of them is invisible."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(small_config(architecture), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or name.endswith("_bias"):  # experts have one each
                parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def small_tokenizer() -> PreTrainedTokenizerFast:
    """One word a token: enough for what a base does with its tokenizer."""
    words = {"<pad>": 0, "<eos>": 1, **{f"w{index}": index for index in range(2, VOCABULARY)}}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), pad_token="<pad>", eos_token="<eos>"
    )


def small_base(architecture: str, seed: int = 0) -> Base:
    """A fresh base of this architecture; the same seed gives the same weights."""
    return Base(small_model(architecture, seed), small_tokenizer(), Source(architecture, architecture))


def double_base(architecture: str, seed: int = 0) -> Base:
    """The same in float64, for laws that rounding would blur. Adapters follow under `torch.set_default_dtype`."""
    base = small_base(architecture, seed)
    base.model.double()
    if architecture in MIXTURES:
        base.model.set_experts_implementation("eager")  # torch's grouped_mm has no float64
    return base


def examples(count: int, seed: int = 0, *, shortest: int = 3, longest: int = 12) -> list[Example]:
    """Random tokens; a random part of them supervised, at least one."""
    draw = random.Random(f"examples {seed}")
    found = []
    for _ in range(count):
        length = draw.randint(shortest, longest)
        mask = [False] + [draw.random() < 0.6 for _ in range(length - 1)]
        mask[draw.randint(1, length - 1)] = True
        found.append(Example(tuple(draw.randint(2, VOCABULARY - 1) for _ in range(length)), tuple(mask)))
    return found


def adapted(engine: Engine, name: str = "lora", *, rank: int = 3, targets: Any = EVERYTHING, seed: int = 0) -> Any:
    """Put a LoRA on the base whose B is not zero, so that it does something."""
    return stir(engine.add_policy(name, LoRA(rank=rank, alpha=rank, targets=targets), seed), seed)


def placed(engine: Engine, form: str) -> list[str]:
    """The matrices of a base that is not adapted yet which take a form of adapter."""
    modules = [(matrix, engine.model.get_submodule(carrier_name(matrix))) for matrix in engine.matrices]
    return [matrix.name for matrix, module in modules if form_of(matrix, module) is FORMS[form]]


@cache
def homes(form: str) -> list[str]:
    """The small bases that have a place for a form of adapter."""
    return [architecture for architecture in (*DENSE, *MIXTURES) if placed(Engine(small_base(architecture)), form)]


def method_on(engine: Engine, form: str, variant: str, init: str, **fields: Any) -> LoRA:
    """The LoRA that takes this form alone; of rank 6, which is padded, and which every convention makes another of."""
    names = "|".join(re.escape(name) for name in placed(engine, form))
    asked = {"targets": (f"re:^({names})$",), "init": init, **FORMS[form].variants[variant], **fields}
    return LoRA(rank=6, alpha=12, **asked)


def stir(policy: Any, seed: int = 0) -> Any:
    """Give a LoRA a B that is not zero."""
    generator = torch.Generator().manual_seed(1000 + seed)
    with torch.no_grad():
        for adapter in policy.adapters.values():
            adapter.b.copy_(0.3 * torch.randn(adapter.b.shape, generator=generator))
    return policy


def weights(policy: Any) -> dict[str, Tensor]:
    """A copy of a policy's weights."""
    return {name: weight.detach().clone() for name, weight in policy.weights.items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Equal to the bit, NaN included."""
    return left.keys() == right.keys() and all(
        torch.equal(_bytes(value), _bytes(right[name])) for name, value in left.items()
    )


def _bytes(value: Tensor) -> Tensor:
    return value.detach().contiguous().flatten().view(torch.uint8)


def distance(left: Tensor, right: Tensor) -> float:
    """‖left − right‖ / ‖right‖."""
    left, right = left.detach().double(), right.detach().double()
    return float((left - right).norm() / right.norm())


def copied(base: Base) -> PreTrainedModel:
    """The bare model as it is now: a reference that no engine touches."""
    return copy.deepcopy(base.model)


def padded(found: Sequence[Example], pad_id: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, attention mask and labels (−100 where not supervised), all [rows, length], as users of transformers
    build them: nothing of ours in it."""
    length = max(len(example.token_ids) for example in found)
    ids = torch.full((len(found), length), pad_id)
    mask = torch.zeros(len(found), length, dtype=torch.int64)
    labels = torch.full((len(found), length), -100)
    for row, example in enumerate(found):
        n = len(example.token_ids)
        ids[row, :n] = torch.tensor(example.token_ids)
        mask[row, :n] = 1
        labels[row, :n] = torch.where(torch.tensor(example.supervised), ids[row, :n], -100)
    return ids, mask, labels


def reference_nll(model: Any, found: Sequence[Example], pad_id: int = 0) -> Tensor:
    """Σ cross-entropy over supervised tokens / their number, from full logits with an attention mask."""
    ids, mask, labels = padded(found, pad_id)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].flatten(0, 1)
    total = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")
    return total / (labels != -100).sum()
