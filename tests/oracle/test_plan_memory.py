"""The plan's memory beside torch: what a pass of the engine keeps, tensor by tensor, and the peak of a step at full
size, as torch's own tracker finds it on fake tensors."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    Gemma2Config,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3MoeConfig,
)

from lowregret.data.batches import Batch, collate
from lowregret.data.example import Example
from lowregret.engine import AdamParams, Engine
from lowregret.engine.losses import cross_entropy
from lowregret.models.load import Base, Source
from lowregret.plan.resources.activations import token_bytes
from lowregret.plan.resources.memory import memory
from lowregret.plan.shapes.layouts.from_config import shapes_of
from lowregret.spec import FullFT, LoRA

_LENGTH, _LAYERS = 32, 3
_NARROW: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 96,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 208,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_GROUPED = {**_NARROW, "num_key_value_heads": 2}
_EXPERTS = {"num_experts_per_tok": 3, "moe_intermediate_size": 56}
_LATENT = {"q_lora_rank": 48, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 24}
_CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**_GROUPED, head_dim=20),
    "qwen3": Qwen3Config(**_GROUPED, head_dim=20),
    "gemma2": Gemma2Config(**_GROUPED, head_dim=24),
    "phi3": Phi3Config(**_NARROW),
    "gpt2": GPT2Config(**{key: value for key, value in _NARROW.items() if key != "intermediate_size"}),
    "qwen3_moe": Qwen3MoeConfig(**_GROUPED, **_EXPERTS, head_dim=24, num_experts=6),
    "gpt_oss": GptOssConfig(**_GROUPED, head_dim=24, num_local_experts=6, num_experts_per_tok=3),
    "deepseek_v3": DeepseekV3Config(
        **_NARROW,
        **_LATENT,
        **_EXPERTS,
        num_key_value_heads=4,
        n_routed_experts=6,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        n_shared_experts=1,
    ),
}
_METHODS = (LoRA(rank=4), LoRA(rank=16, targets=("attention",)), LoRA(rank=16, targets=("mlp",)), FullFT())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", _CONFIGS)
@pytest.mark.parametrize("method", _METHODS, ids=lambda method: method.name)
def test_what_a_token_keeps(architecture: str, method: LoRA | FullFT, precision: str, bases: ModuleType) -> None:
    """Within 8 %: what is left out is a few numbers a token (softmax sums, indices), which widths like these show."""
    config = _CONFIGS[architecture]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    engine = Engine(Base(model, bases.small_tokenizer(), Source(architecture, architecture)), precision=precision)
    engine.add_policy("own", method)
    measured = (_kept(engine, _batch(2)) - _kept(engine, _batch(1))) / _LENGTH
    wide = 4 if precision == "float32" else 2
    planned = token_bytes(shapes_of(config.to_dict(), architecture), method, wide, _LENGTH)
    assert planned == pytest.approx(measured, rel=0.08)


def _batch(rows: int) -> Batch:
    mask = (False,) * _LENGTH + (True,)
    return collate([Example(tuple(range(2, 3 + _LENGTH)), mask)] * rows, 0)


def _kept(engine: Engine, batch: Batch) -> int:
    """Bytes that a forward pass saves for the backward pass."""
    held: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage
        return tensor

    engine.policies["own"].before_backward()
    layout = engine._lay_out({"own": batch})
    with torch.enable_grad(), engine._passing(layout), saved_tensors_hooks(note, lambda tensor: tensor):
        engine._forward(layout, {"own": batch}, cross_entropy)
    return sum(storage.nbytes() for storage in held.values())


_LARGE: dict[str, tuple[PretrainedConfig, int, int]] = {
    "1B": (
        LlamaConfig(
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=64,
            vocab_size=128256,
            tie_word_embeddings=True,
        ),
        8,
        512,
    ),
    "8B": (
        LlamaConfig(
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=8,  # of its 32: the tracker takes seconds a layer
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            vocab_size=128256,
        ),
        4,
        1024,
    ),
    "MoE": (
        Qwen3MoeConfig(
            hidden_size=2048,
            num_hidden_layers=6,
            num_attention_heads=32,
            num_key_value_heads=4,
            head_dim=128,
            num_experts=128,
            num_experts_per_tok=8,
            moe_intermediate_size=768,
            vocab_size=151936,
        ),
        4,
        1024,
    ),
}
"""Llama 3.2 1B, Llama 3.1 8B and six of the 48 layers of Qwen3 30B A3B, with rows and tokens of a row."""


# Adapters on experts ask how many tokens each got, which a fake tensor cannot say: the mixture's are on attention.
@pytest.mark.parametrize(
    ("size", "method"), [("1B", FullFT()), ("8B", LoRA(rank=16)), ("MoE", LoRA(rank=16, targets=("attention",)))]
)
def test_within_a_tenth_of_the_tracker(size: str, method: LoRA | FullFT, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step in bfloat16, then another pass: weights, gradients, moments, activations. Context and fragmentation are
    no tensors."""
    config, rows, length = _LARGE[size]
    tracked = _tracked(size, method, monkeypatch)
    planned = memory(shapes_of(config.to_dict(), size), method, rows=rows, length=length)
    assert planned.total - planned.context - planned.fragmentation == pytest.approx(tracked, rel=0.1)


def _tracked(size: str, method: LoRA | FullFT, monkeypatch: pytest.MonkeyPatch) -> float:
    """Bytes at the peak."""
    config, rows, length = _LARGE[size]
    _let_frozen_weights_be_tracked(monkeypatch)
    # A fake base has no numbers to look at, cannot be asked how its attention takes rows, nor be moved; it is Llama,
    # and on its device.
    monkeypatch.setattr("lowregret.engine.placing.refuse_broken", lambda *_, **__: None)
    monkeypatch.setattr(Engine, "_select_forward_path", lambda self: None)
    monkeypatch.setattr(PreTrainedModel, "to", lambda self, *_: self)
    mask = (False,) + (True,) * length
    example: Any = Example(tuple(range(2, 3 + length)), mask)
    batch = collate([example] * rows, 0)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    nothing: Any = None
    with fake:
        engine = Engine(
            Base(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval(), nothing, Source(size, size)),
            precision="bfloat16",
        )
        engine.add_policy("own", method)
    layout = engine._lay_out({"own": batch})
    monkeypatch.setattr(engine, "_lay_out", lambda _: layout)
    tracker = MemTracker()
    tracker.track_external(engine.model)
    with fake, tracker:
        engine.forward_backward({"own": batch})
        tracker.reset_mod_stats()
        engine.policies["own"].optimizer.step(AdamParams(1e-4))
        engine.forward_backward({"own": batch})
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    return next(float(size) for kind, size in peak.items() if "total" in str(kind).lower())


class _NoHandle:
    def remove(self) -> None: ...


def _let_frozen_weights_be_tracked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracker puts hooks on every parameter, and torch refuses them on frozen ones."""
    for name in ("register_hook", "register_post_accumulate_grad_hook"):
        own = getattr(torch.Tensor, name)

        def register(tensor: torch.Tensor, hook: Any, own: Any = own) -> Any:
            return own(tensor, hook) if tensor.requires_grad else _NoHandle()

        monkeypatch.setattr(torch.Tensor, name, register)
