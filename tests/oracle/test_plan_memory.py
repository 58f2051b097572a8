"""The plan's memory on a GPU beside what torch's own tracker finds for our engine on fake tensors of full size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lowregret.data.batches import collate
from lowregret.data.chat import Example
from lowregret.engine import AdamParams, Engine
from lowregret.models.load import Base
from lowregret.plan.layouts import shapes_of
from lowregret.plan.memory import memory
from lowregret.spec import FullFT, LoRA

_SIZES = {
    "1B": ({"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64}, True, 4, 512),
    "8B": ({"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "head_dim": 128}, False, 2, 1024),
}
"""Those of Llama 3.2 and 3.1, whether the unembedding is tied, rows and tokens of a row."""


# The other two pairs are as near (FINDINGS.md), and left out for the minute that they take.
@pytest.mark.parametrize(("size", "method"), [("1B", FullFT()), ("8B", LoRA(rank=16))])
def test_within_a_tenth_of_the_tracker(size: str, method: LoRA | FullFT, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step in bfloat16, then another pass: weights, gradients, moments, activations. Context and fragmentation are
    no tensors."""
    widths, tied, rows, length = _SIZES[size]
    config = LlamaConfig(
        **widths, num_attention_heads=32, num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=tied
    )
    tracked = _tracked(config, method, rows, length, monkeypatch)
    planned = memory(shapes_of(config.to_dict(), size), method, rows=rows, length=length)
    assert planned.total - planned.context - planned.fragmentation == pytest.approx(tracked, rel=0.1)


def _tracked(
    config: LlamaConfig, method: LoRA | FullFT, rows: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> float:
    """Bytes at the peak."""
    _let_frozen_weights_be_tracked(monkeypatch)
    # A fake base cannot be asked how its attention takes rows, nor be moved; it is Llama, and on its device.
    monkeypatch.setattr(Engine, "_find_way", lambda self: None)
    monkeypatch.setattr(PreTrainedModel, "to", lambda self, *_: self)
    mask = (False,) + (True,) * length
    example: Any = Example(tuple(range(2, 3 + length)), mask)
    batch = collate([example] * rows, 0)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    nothing: Any = None
    with fake:
        engine = Engine(Base(LlamaForCausalLM(config).eval(), nothing, nothing), precision="bfloat16")
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
