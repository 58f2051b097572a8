"""How many positions a base has: what configurations of the hub say, and what these bases are known to hold."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from lowregret.models.context import positions, positions_of

YARN = {"factor": 4.0, "original_max_position_embeddings": 32768}
WINDOW = {"rope_type": "default", "rope_theta": 10000.0}
PUBLISHED: dict[str, tuple[dict[str, Any], int | None]] = {
    # What each config.json on huggingface.co has, and how long rows may be by its card; as remembered in November 2026.
    "Qwen/Qwen2.5-7B-Instruct, as its card extends it": (
        {"max_position_embeddings": 32768, "rope_scaling": {**YARN, "type": "yarn"}},
        131072,
    ),
    "Qwen/Qwen3-8B, as its card extends it": (
        {"max_position_embeddings": 40960, "rope_scaling": {**YARN, "rope_type": "yarn"}},
        131072,
    ),
    "Qwen/Qwen3-8B": ({"max_position_embeddings": 40960, "rope_scaling": None}, 40960),
    "meta-llama/Llama-3.1-8B": (
        {
            "max_position_embeddings": 131072,
            "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
        },
        131072,
    ),
    "meta-llama/Llama-3.2-1B": (
        {
            "max_position_embeddings": 131072,
            "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 8192},
        },
        131072,
    ),
    "deepseek-ai/DeepSeek-V3": (
        {
            "max_position_embeddings": 163840,
            "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
        },
        163840,
    ),
    "openai/gpt-oss-20b": (
        {
            "max_position_embeddings": 131072,
            "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096},
        },
        131072,
    ),
    "microsoft/Phi-3-mini-128k-instruct": (
        {
            "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
        },
        131072,
    ),
    "google/gemma-3-4b-it": (
        {
            "max_position_embeddings": 131072,
            "rope_local_base_freq": 10000,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        131072,
    ),
    "the same, saved by transformers 5": (
        {
            "max_position_embeddings": 131072,
            "rope_parameters": {
                "sliding_attention": WINDOW,
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            },
        },
        131072,
    ),
    "lmsys/vicuna-7b-v1.5-16k": (
        {"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}},
        16384,
    ),
    "internlm/internlm2-chat-7b": (
        {"max_position_embeddings": 32768, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        65536,
    ),
    "tencent/Hunyuan-7B-Instruct": (
        {"max_position_embeddings": 32768, "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}},
        32768,
    ),
    "Qwen/Qwen2-VL-7B-Instruct": (
        {"max_position_embeddings": 32768, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}},
        32768,
    ),
    "openai-community/gpt2": ({"n_positions": 1024}, 1024),
    "says nothing": ({}, None),
    "says nonsense": ({"max_position_embeddings": 8, "rope_scaling": {"type": "yarn", "factor": "4"}}, 8),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_hold_what_their_cards_say(name: str) -> None:
    values, expected = PUBLISHED[name]
    assert positions(values) == expected


@pytest.mark.parametrize("kind", ["yarn", "dynamic", "linear"])
def test_a_scaled_base_has_its_factor_times_the_original(kind: str) -> None:
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = 64
    config = transformers.LlamaConfig(max_position_embeddings=64, rope_parameters=rope)
    assert positions_of(config) == positions(config.to_dict()) == 256


def test_other_names_for_the_same_number_count() -> None:
    assert positions_of(transformers.GPT2Config(n_positions=128)) == 128
    assert positions_of(transformers.MambaConfig()) is None
