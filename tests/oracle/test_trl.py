"""TRL's SFTTrainer sees the same loss in the same tokenised examples."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from datasets import Dataset

from lowregret.engine import Engine
from lowregret.spec import FullFT, LoRA

trl = pytest.importorskip("trl")


@pytest.fixture(autouse=True)
def no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("WANDB", "MLFLOW", "TRACKIO"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_one_step_of_sft_trainer(
    bases: ModuleType, train_ours: Any, to_peft: Any, tmp_path: Path, kind: str, record_property: Any
) -> None:
    """One batch of all examples, so that its order does not matter: the step's loss, and the loss after the step."""
    base, examples = bases.small_base("llama"), bases.examples(8)
    model: Any = bases.copied(base)
    engine = Engine(base)
    policy = engine.add_policy("policy", LoRA(rank=4, targets=("attention", "mlp")) if kind == "lora" else FullFT())
    if kind == "lora":
        model = to_peft(model, policy)
    config = trl.SFTConfig(
        output_dir=str(tmp_path / "trl"),
        max_steps=1,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        adam_beta2=0.95,
        max_grad_norm=0,
        lr_scheduler_type="constant",
        completion_only_loss=True,
        max_length=None,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    rows = [{"input_ids": list(e.token_ids), "completion_mask": [int(on) for on in e.supervised]} for e in examples]
    trainer = trl.SFTTrainer(
        model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=base.tokenizer
    )
    trainer.train()
    theirs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    ours = train_ours(engine, "policy", examples, 1e-3, batch=8, steps=1)
    record_property("difference", abs(ours[0] - theirs[0]))
    assert theirs == pytest.approx(ours, abs=1e-5)
    after, _ = engine.evaluate(["policy"], examples)["policy"]
    tokens = sum(example.supervised_tokens for example in examples)
    reference = bases.reference_nll(trainer.model.eval(), examples).item()
    assert sum(after) / tokens == pytest.approx(reference, abs=1e-5)
    assert abs(reference - ours[0]) > 1e-3, "the step did nothing"
