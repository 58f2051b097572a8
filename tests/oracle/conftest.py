"""Real examples, and the same training written by hand against PEFT or plain transformers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from lowregret.data.example import Example
    from lowregret.engine import Engine

SHARED_GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k"


class Reference(Protocol):
    """Trains `model` by hand and returns the loss of every step."""

    def __call__(
        self, model: Any, examples: Sequence[Example], learning_rate: float, *, batch: int, steps: int, pad_id: int
    ) -> list[float]: ...


@pytest.fixture
def train_by_hand(bases: ModuleType) -> Reference:
    """torch.optim.AdamW over what requires gradients; the order of the examples is that of seed 0."""
    import torch

    from lowregret.data.batches import batch_indices

    def train(
        model: Any, examples: Sequence[Example], learning_rate: float, *, batch: int, steps: int, pad_id: int
    ) -> list[float]:
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=learning_rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
        losses = []
        for step in range(steps):
            rows = [examples[index] for index in batch_indices(len(examples), batch, 0, step)]
            loss = bases.reference_nll(model, rows, pad_id)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    return train


@pytest.fixture
def train_ours(tmp_path: Path) -> Any:
    """The real loop, `run_trial`; returns the loss of every step from its own record."""
    from lowregret.runs.files import METRICS
    from lowregret.runs.metrics import read_metrics
    from lowregret.spec import DataSpec, TrainingSpec, TrialSpec
    from lowregret.train.sft.alone import run_trial

    def train(
        engine: Engine, policy: str, examples: Sequence[Example], learning_rate: float, *, batch: int, steps: int
    ) -> list[float]:
        spec = TrainingSpec(model="any", data=DataSpec(train="any"), batch_size=batch, steps=steps)
        trial = TrialSpec(method=engine.policies[policy].method, learning_rate=learning_rate, seed=0)
        run_trial(engine, policy, spec, trial, examples, [], tmp_path / "trial")
        return [float(metric.train_nll or 0.0) for metric in read_metrics(tmp_path / "trial" / METRICS)]

    return train


@pytest.fixture
def to_peft() -> Any:
    """The bare model under a PEFT adapter that starts where our policy starts."""
    import peft
    import torch
    from transformers.pytorch_utils import Conv1D

    def wrap(model: Any, policy: Any) -> Any:
        names = [matrix.name for matrix in policy.matrices]
        config = peft.LoraConfig(
            r=policy.method.rank,
            lora_alpha=policy.method.alpha,
            lora_dropout=0.0,
            target_modules=names,
            fan_in_fan_out=isinstance(model.get_submodule(names[0]), Conv1D),
            task_type="CAUSAL_LM",
        )
        wrapped = peft.get_peft_model(model, config)
        wrapped.eval()
        with torch.no_grad():
            for name, adapter in policy.adapters.items():
                module = wrapped.base_model.model.get_submodule(name)
                assert module.lora_A["default"].weight.shape == adapter.a.shape
                module.lora_A["default"].weight.copy_(adapter.a)
                module.lora_B["default"].weight.copy_(adapter.b)
        trained = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
        assert len(trained) == 2 * len(names)
        return wrapped

    return wrap


@pytest.fixture
def real_model() -> str:
    """A real model's folder, named by LOWREGRET_REAL_MODEL."""
    folder = os.environ.get("LOWREGRET_REAL_MODEL")
    if not folder:
        pytest.skip("set LOWREGRET_REAL_MODEL to a Hugging Face folder, such as SmolLM2-135M-Instruct's")
    return folder


@pytest.fixture
def gsm8k() -> str:
    """GSM8K's training file: in LOWREGRET_DATA, or beside the repository."""
    file = Path(os.environ.get("LOWREGRET_DATA", SHARED_GSM8K)) / "train.jsonl"
    if not file.is_file():
        pytest.skip("set LOWREGRET_DATA to a folder that holds GSM8K's train.jsonl")
    return str(file)
