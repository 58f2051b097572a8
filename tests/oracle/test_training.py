"""The same training as PEFT or plain transformers with torch's AdamW: every loss of ours, in float32, within 1e-5.

Over 20 steps theirs is run in float64: Adam divides by the size of a gradient, so the rounding of near-zero ones grows
into steps of its own, and two trainings in float32 may each be 1e-5 off the truth on one processor and not on another.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lowregret.data.prepare import prepare
from lowregret.engine import Engine
from lowregret.models.load import load_base, load_tokenizer, resolve
from lowregret.spec import DataSpec, FullFT, LoRA

TOLERANCE = 1e-5
EVERYTHING = ("attention", "mlp", "unembedding")
TARGETS = {
    "attention": ("attention",),
    "mlp": ("mlp",),
    "unembedding": ("unembedding",),
    "everything": EVERYTHING,
    "regex": (r"re:\.1\..*(down_proj|o_proj|c_proj|dense|out_proj|fc2)",),
}
Record = Callable[[str, object], None]


def difference(ours: list[float], theirs: list[float]) -> float:
    assert len(ours) == len(theirs)
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def judge(name: str, ours: list[float], theirs: list[float], record: Record) -> None:
    largest = difference(ours, theirs)
    record("largest_difference", largest)
    print(f"\n{name}: {len(ours)} steps, loss {ours[0]:.4f} → {ours[-1]:.4f}, largest difference {largest:.2e}")
    assert largest < TOLERANCE


def compare(
    model: str, data: DataSpec, method: Any, rate: float, batch: int, fixtures: tuple[Any, Any, Any], record: Record
) -> None:
    """20 steps of ours, then of theirs in float64 on a fresh model: one of them trains at a time."""
    train_ours, train_by_hand, to_peft = fixtures
    examples = prepare(data, load_tokenizer(resolve(model))).train
    engine = Engine(load_base(resolve(model)), device="cpu", precision="float32")
    policy = engine.add_policy("policy", method, seed=0)
    pad_id = engine.base.pad_id
    reference = AutoModelForCausalLM.from_pretrained(resolve(model).path, dtype=torch.float64).eval()
    if isinstance(method, LoRA):
        reference = to_peft(reference, policy)
    ours = train_ours(engine, "policy", examples, rate, batch=batch, steps=20)
    del engine, policy
    gc.collect()
    theirs = train_by_hand(reference, examples, rate, batch=batch, steps=20, pad_id=pad_id)
    judge(f"{model.rpartition('/')[2]} {method.name}", ours, theirs, record)


@pytest.mark.parametrize(("method", "rate"), [(LoRA(rank=16), 2e-3), (FullFT(), 5e-4)], ids=["lora", "full"])
@pytest.mark.parametrize("data", ["builtin:instructions:size=96,test_size=8", "builtin:biographies:size=8"])
def test_the_bundled_base(
    data: str, method: Any, rate: float, train_ours: Any, train_by_hand: Any, to_peft: Any, record_property: Record
) -> None:
    fixtures = (train_ours, train_by_hand, to_peft)
    compare("tiny", DataSpec(train=data), method, rate, 8, fixtures, record_property)


@pytest.mark.parametrize(("method", "rate"), [(LoRA(rank=16), 2e-4), (FullFT(), 2e-5)], ids=["lora", "full"])
def test_a_real_model(
    real_model: str,
    gsm8k: str,
    method: Any,
    rate: float,
    train_ours: Any,
    train_by_hand: Any,
    to_peft: Any,
    record_property: Record,
) -> None:
    """On GSM8K, short examples (the over-long are dropped) in batches of 4: minutes on one core."""
    fixtures = (train_ours, train_by_hand, to_peft)
    spec = DataSpec(train=gsm8k, max_length=112, overlong="drop", max_train=80, max_eval=4)
    compare(real_model, spec, method, rate, 4, fixtures, record_property)


@pytest.mark.parametrize("targets", list(TARGETS))
def test_targets_on_every_architecture(
    bases: ModuleType,
    architecture: str,
    targets: str,
    train_ours: Any,
    train_by_hand: Any,
    to_peft: Any,
    record_property: Record,
) -> None:
    """Tied and untied unembeddings, Conv1D (fan_in_fan_out), fused qkv, soft-capped logits."""
    base, examples = bases.small_base(architecture), bases.examples(24)
    reference = bases.copied(base)
    engine = Engine(base)
    policy = engine.add_policy("policy", LoRA(rank=4, targets=TARGETS[targets]))
    peft = to_peft(reference, policy)
    ours = train_ours(engine, "policy", examples, 5e-3, batch=4, steps=6)
    theirs = train_by_hand(peft, examples, 5e-3, batch=4, steps=6, pad_id=0)
    judge(f"{architecture} {targets}", ours, theirs, record_property)


def test_full_on_every_architecture(
    bases: ModuleType, architecture: str, train_ours: Any, train_by_hand: Any, record_property: Record
) -> None:
    base, examples = bases.small_base(architecture), bases.examples(24)
    reference = bases.copied(base).requires_grad_(True)
    engine = Engine(base)
    engine.add_policy("policy", FullFT())
    ours = train_ours(engine, "policy", examples, 1e-3, batch=4, steps=6)
    theirs = train_by_hand(reference, examples, 1e-3, batch=4, steps=6, pad_id=0)
    judge(f"{architecture} full", ours, theirs, record_property)
