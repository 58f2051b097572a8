"""The step that is written out is the base's own step."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from transformers import PretrainedConfig

from lowregret.engine import Engine, SamplingParams
from lowregret.engine.sampling import decode
from lowregret.engine.sampling.lean import lean_step
from lowregret.lora import decoding
from lowregret.models.load import Base, Source

PROMPTS = [[5, 9, 4], [7], [3, 8, 12, 6, 11, 20, 31, 2, 9]]
SHAPE = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
SCALED = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 100.0, "original_max_position_embeddings": 32}
CONFIGS: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, {"rms_norm_eps": 1e-2, "attention_bias": True, "mlp_bias": True}),
    "llama, another activation": (transformers.LlamaConfig, {"hidden_act": "relu", "head_dim": 6}),
    "llama, scaled positions": (transformers.LlamaConfig, {"rope_parameters": SCALED}),
    "qwen2, windows": (
        transformers.Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": (transformers.Qwen3Config, {"head_dim": 8, "tie_word_embeddings": True}),
    "qwen3, windows": (
        transformers.Qwen3Config,
        {"head_dim": 8, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0},
    ),
}


@pytest.fixture(params=CONFIGS)
def engine(request: pytest.FixtureRequest, bases: ModuleType) -> Engine:
    """Norms and biases are stirred: a new base's are all ones and zeros."""
    torch.manual_seed(0)
    kind, own = CONFIGS[request.param]
    config = kind(**{**bases.GROUPED, **SHAPE, **own})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.3 * torch.randn_like(weight))
    engine = Engine(Base(model, bases.small_tokenizer(), Source(request.param, request.param)))
    for number, name in enumerate(("a", "b")):
        bases.adapted(engine, name, rank=number + 2, seed=number)
    return engine


@pytest.mark.parametrize("vendor", ["AuthenticAMD", "GenuineIntel"])
def test_it_is_the_bases_own_step(engine: Engine, monkeypatch: pytest.MonkeyPatch, vendor: str) -> None:
    """Two policies and the bare base, rows of unlike length, some of which end early, against transformers' code."""
    monkeypatch.setattr(decoding, "cpu_vendor", lambda: vendor)
    assert lean_step(engine.model) is not None
    prompts = {"a": PROMPTS, "b": PROMPTS[1:], "base": PROMPTS[:1]}
    params = SamplingParams(max_tokens=14, stop_ids=(2, 3))
    found = engine.sample(prompts, params)
    monkeypatch.setattr(decode, "lean_step", lambda model: None)
    monkeypatch.setattr(decoding, "cpu_vendor", lambda: "")
    expected = engine.sample(prompts, params)
    for name in prompts:
        for one, other in zip(found[name], expected[name], strict=True):
            assert one.token_ids == other.token_ids
            assert one.logprobs == pytest.approx(other.logprobs, abs=2e-5)
    assert max(len(one.token_ids) for one in found["a"]) > 6  # the windows were outgrown


@pytest.mark.parametrize("architecture", ["phi3", "gpt2", "gpt_neox", "opt", "qwen3_moe", "mixtral"])
def test_other_layers_keep_their_own(architecture: str, bases: ModuleType) -> None:
    assert lean_step(bases.small_model(architecture)) is None


def test_a_layer_of_the_same_name_from_elsewhere_keeps_its_own(bases: ModuleType) -> None:
    model = bases.small_model("llama")
    assert lean_step(model) is not None
    layer = model.model.layers[0]
    layer.__class__ = type("LlamaDecoderLayer", (type(layer),), {"__module__": "elsewhere.modeling"})
    assert lean_step(model) is None


@pytest.mark.parametrize("name", ["llama", "qwen2, windows", "qwen3"])
def test_under_autocast_it_is_the_bases_own_step_to_rounding(
    bases: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As on a GPU: the log-probability of each token, up to the first that is drawn otherwise."""
    kind, own = CONFIGS[name]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(kind(**{**bases.GROUPED, **SHAPE, **own})).eval()
    engine = Engine(Base(model, bases.small_tokenizer(), Source(name, name)), precision="bfloat16")
    for number, policy in enumerate(("a", "b")):
        bases.adapted(engine, policy, rank=number + 2, seed=number)
    steps = []
    monkeypatch.setattr(decode, "lean_step", lambda model: steps.append(1) or lean_step(model))
    prompts, params = {"a": PROMPTS, "b": PROMPTS}, SamplingParams(max_tokens=12, stop_ids=())
    found = engine.sample(prompts, params)
    assert steps
    monkeypatch.setattr(decode, "lean_step", lambda model: None)
    expected = engine.sample(prompts, params)
    compared = 0
    for policy in prompts:
        for one, other in zip(found[policy], expected[policy], strict=True):
            pairs = zip(one.token_ids, other.token_ids, strict=True)
            alike = next((place for place, (mine, its) in enumerate(pairs) if mine != its), len(one.token_ids))
            assert one.logprobs[:alike] == pytest.approx(other.logprobs[:alike], abs=0.1)
            compared += alike
    assert compared > 36
