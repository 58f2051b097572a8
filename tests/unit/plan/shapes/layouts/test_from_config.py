"""What a layout makes of a configuration: layers that differ, what a token uses, what attention looks like."""

from __future__ import annotations

import pytest

from lowregret.errors import ModelError
from lowregret.plan.shapes.layouts.from_config import shapes_of
from lowregret.plan.shapes.lookup import find_model
from lowregret.plan.shapes.weights import AttentionLayers, StateLayers, Weight


def _only(name: str, model: str) -> Weight:
    found = [weight for weight in find_model(model).weights if weight.name.endswith(name)]
    assert len(found) == 1, found
    return found[0]


def test_equal_weights_of_different_layers_are_one() -> None:
    weight = _only("self_attn.q_proj.weight", "Llama-3.1-8B")
    assert weight == Weight(weight.name, "attention", (4096, 4096), 32, 32, layers=tuple(range(32)))


def test_a_tied_unembedding_has_arithmetic_but_no_parameters() -> None:
    shapes = find_model("Llama-3.2-1B")
    head = _only("lm_head.weight", "Llama-3.2-1B")
    assert head.tied
    assert head.shape == (128_256, 2048)
    assert shapes.by_kind()["unembedding"] == 0
    assert shapes.by_kind()["embedding"] == head.size


def test_biases_are_other() -> None:
    assert _only("q_proj.bias", "Qwen2.5-7B") == Weight(
        "model.layers.*.self_attn.q_proj.bias", "other", (3584,), 28, 28, layers=tuple(range(28))
    )


def test_fused_matrices_are_one() -> None:
    assert _only("qkv_proj.weight", "phi-4").shape == (5120 + 2 * 1280, 5120)
    assert _only("gate_up_proj.weight", "phi-4").shape == (2 * 17_920, 5120)


def test_a_token_passes_through_its_experts_the_router_and_the_shared_ones() -> None:
    expert = _only("mlp.experts.*.up_proj.weight", "DeepSeek-V3")
    assert (expert.copies, expert.active) == (58 * 256, 58 * 8)
    assert _only("mlp.shared_experts.up_proj.weight", "DeepSeek-V3").kind == "mlp"
    assert _only("mlp.gate.weight", "DeepSeek-V3").kind == "router"


def test_the_first_layers_may_be_dense() -> None:
    assert _only("mlp.up_proj.weight", "DeepSeek-V3").layers == (0, 1, 2)
    assert _only("mlp.experts.*.up_proj.weight", "DeepSeek-V3").layers == tuple(range(3, 61))


def test_latent_attention() -> None:
    assert _only("kv_a_proj_with_mqa.weight", "DeepSeek-V3").shape == (512 + 64, 7168)
    assert _only("kv_b_proj.weight", "DeepSeek-V3").shape == (128 * (128 + 128), 512)
    assert find_model("DeepSeek-V3").attention == (AttentionLayers(61, 128, 128, 192, 128),)
    assert _only("self_attn.q_proj.weight", "DeepSeek-V2-Lite").shape == (16 * 192, 2048)


def test_windows() -> None:
    assert find_model("gemma-3-1b-it").attention == (
        AttentionLayers(22, 4, 1, 256, 256, window=512),
        AttentionLayers(4, 4, 1, 256, 256),
    )
    assert find_model("Mistral-7B-v0.1").attention[0].window == 4096
    assert find_model("Mistral-7B-v0.3").attention[0].window is None
    assert find_model("Qwen3-8B").attention[0].window is None


def test_linear_attention_and_mamba_keep_a_state() -> None:
    qwen = find_model("Qwen3.5-27B")
    assert qwen.states == (StateLayers(48, 48, 128, 128),)
    assert sum(group.layers for group in qwen.attention) == 16
    assert _only("linear_attn.out_proj.weight", "Qwen3.5-27B").kind == "attention"
    mamba = find_model("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")
    assert mamba.states == (StateLayers(23, 64, 128, 64),)
    assert sum(group.layers for group in mamba.attention) == 6


def test_experts_on_a_latent_vector_have_its_width() -> None:
    assert _only("experts.*.up_proj.weight", "NVIDIA-Nemotron-3-Super-120B-A12B-BF16").shape == (2688, 1024)


def test_what_a_model_leaves_out_is_said() -> None:
    assert any("multimodal" in note for note in find_model("gemma-3-4b-it").notes)
    values = {**_nemotron("M*"), "num_nextn_predict_layers": 1}
    assert any("MTP" in note for note in shapes_of(values, "x").notes)


def test_a_layer_of_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ModelError, match="a layer 'X'"):
        shapes_of(_nemotron("M*X"), "x")
    with pytest.raises(ModelError, match="no layers_block_type"):
        shapes_of(_nemotron(None), "x")


def _nemotron(pattern: str | None) -> dict[str, object]:
    return {
        "model_type": "nemotron_h",
        "hidden_size": 32,
        "num_attention_heads": 2,
        "mamba_num_heads": 2,
        "mamba_head_dim": 16,
        "n_groups": 1,
        "ssm_state_size": 8,
        "conv_kernel": 4,
        "vocab_size": 64,
        "hybrid_override_pattern": pattern,
    }
