"""Full fine-tuning with an optimizer of its own on any number of ranks; imported by name, and run on each (gloo.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bases import examples, small_tokenizer
from lowregret.data.batches import collate
from lowregret.engine import Engine, step_params
from lowregret.engine.parallel.mesh import ALONE, Ranks
from lowregret.errors import SpecError
from lowregret.models.load import Base, Source
from lowregret.models.sharded import whole
from lowregret.spec import AdamW, FullFT
from lowregret.spec.optimizer import stepped_by

METHOD = FullFT(optimizer="adamw8bit")
REFUSED = (
    FullFT(optimizer="bf16"),
    FullFT(optimizer="muon"),
    FullFT(optimizer="adafactor"),
    FullFT(in_backward=True),
)


def base(width: int) -> Base:
    """One layer whose rows have so many numbers, and twice as many behind the MLP."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    return Base(LlamaForCausalLM(config), small_tokenizer(), Source("small", "small"))


def train(folder: Path, halves: bool, state: Path | None = None) -> dict[str, Any]:
    """Weights and state after three steps, or after three more from `state`; `halves`: one process alone."""
    engine = Engine(base(256), device="cpu", precision="float32", ranks=ALONE if halves else Ranks.of_group("cpu"))
    policy = engine.add_policy("a", METHOD)
    if state is not None:
        engine.load("a", state)
    params = {"a": step_params(stepped_by(METHOD.optimizer, AdamW()), 1e-3)}
    for number in range(3):
        batch = collate(examples(8, seed=number))
        for part in (range(0, 8, 2), range(1, 8, 2)) if halves else (range(8),):
            engine.forward_backward({"a": batch.select(part)})
        engine.optim_step(params)
    engine.save("a", folder / "state.safetensors")
    found = {**{f"weights/{name}": own.detach() for name, own in policy.weights.items()}, **policy.optimizer.state()}
    return {name: whole(value).numpy() for name, value in found.items()}


def everything(folder: Path, state: Path) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """A training, another that goes on from `state`, and what is refused: processes take long to start."""
    return train(folder, False), train(folder, False, state), refused()


def refused() -> list[str]:
    """What is said of methods that several ranks do not train, and of rows that hold no whole block."""
    said = []
    for method in (*REFUSED, METHOD):
        engine = Engine(base(96), device="cpu", precision="bfloat16", ranks=Ranks.of_group("cpu"))
        try:
            engine.add_policy("a", method)
        except SpecError as error:
            said.append(str(error))
    return said
