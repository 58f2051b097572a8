"""A checkpoint is whole or refused; it never half-restores in silence."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import safetensors.torch
import torch

from lowregret.data.batches import collate
from lowregret.engine import AdamParams, Engine
from lowregret.errors import RecordsError
from lowregret.spec import LoRA
from lowregret.train.checkpoint import NAME, Progress, delete_checkpoint, load_checkpoint, save_checkpoint

PROGRESS = Progress(step=7, tokens=1234, seconds=0.1 + 0.2, peak_memory_bytes=2**40)


@pytest.fixture
def engine(bases: ModuleType) -> Engine:
    engine = Engine(bases.small_base("qwen3"))
    bases.adapted(engine, "policy")
    engine.forward_backward({"policy": collate(bases.examples(4))})
    engine.optim_step({"policy": AdamParams(1e-2)})
    return engine


def fresh(bases: ModuleType, rank: int = 3, targets: tuple[str, ...] = ("attention", "mlp", "unembedding")) -> Engine:
    engine = Engine(bases.small_base("qwen3"))
    engine.add_policy("policy", LoRA(rank=rank, alpha=rank, targets=targets))
    return engine


def test_weights_moments_and_progress_come_back_to_the_bit(engine: Engine, bases: ModuleType, tmp_path: Path) -> None:
    save_checkpoint(engine, "policy", tmp_path, PROGRESS)
    other = fresh(bases)
    assert load_checkpoint(other, "policy", tmp_path) == PROGRESS
    before, after = engine.policies["policy"], other.policies["policy"]
    assert bases.same(bases.weights(after), bases.weights(before))
    assert bases.same(after.optimizer.state(), before.optimizer.state())
    assert not list(tmp_path.glob("*.partial"))


def test_none_means_the_start(engine: Engine, tmp_path: Path) -> None:
    assert load_checkpoint(engine, "policy", tmp_path) == Progress()
    save_checkpoint(engine, "policy", tmp_path, PROGRESS)
    delete_checkpoint(tmp_path)
    delete_checkpoint(tmp_path)
    assert load_checkpoint(engine, "policy", tmp_path) == Progress()


@pytest.mark.parametrize("damage", ["empty", "cut", "header", "text"])
def test_a_damaged_file_is_refused_by_name(engine: Engine, bases: ModuleType, tmp_path: Path, damage: str) -> None:
    save_checkpoint(engine, "policy", tmp_path, PROGRESS)
    whole = (tmp_path / NAME).read_bytes()
    broken = {"empty": b"", "cut": whole[:-100], "header": b"\xff" * 8 + whole[8:], "text": b"not a checkpoint\n"}
    (tmp_path / NAME).write_bytes(broken[damage])
    other = fresh(bases)
    start = bases.weights(other.policies["policy"])
    with pytest.raises(RecordsError, match=rf"{NAME}: the checkpoint is damaged \(.*Delete it"):
        load_checkpoint(other, "policy", tmp_path)
    assert bases.same(bases.weights(other.policies["policy"]), start)


def test_missing_progress_is_damage(engine: Engine, tmp_path: Path) -> None:
    engine.save("policy", tmp_path / NAME, {"step": "3"})
    with pytest.raises(RecordsError, match="damaged"):
        load_checkpoint(engine, "policy", tmp_path)


def test_another_policys_checkpoint_is_refused(engine: Engine, bases: ModuleType, tmp_path: Path) -> None:
    save_checkpoint(engine, "policy", tmp_path, PROGRESS)
    for other in (fresh(bases, rank=2), fresh(bases, targets=("mlp",))):
        start = bases.weights(other.policies["policy"])
        with pytest.raises(RecordsError, match=r"shape|other weights"):
            load_checkpoint(other, "policy", tmp_path)
        assert bases.same(bases.weights(other.policies["policy"]), start)


def test_a_foreign_optimizer_state_is_refused(engine: Engine, bases: ModuleType, tmp_path: Path) -> None:
    save_checkpoint(engine, "policy", tmp_path, PROGRESS)
    tensors = safetensors.torch.load_file(tmp_path / NAME)
    metadata = {key: repr(getattr(PROGRESS, key)) for key in ("step", "tokens", "seconds", "peak_memory_bytes")}
    safetensors.torch.save_file({**tensors, "adam/exp_avg/elsewhere": torch.zeros(3)}, tmp_path / NAME, metadata)
    with pytest.raises(RecordsError, match="damaged"):
        load_checkpoint(fresh(bases), "policy", tmp_path)


def test_a_failed_write_leaves_the_last_checkpoint(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(engine, "policy", tmp_path, PROGRESS)
    before = (tmp_path / NAME).read_bytes()

    def full(*_: object) -> None:
        raise safetensors.SafetensorError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(RecordsError, match="the disk is full"):
        save_checkpoint(engine, "policy", tmp_path, Progress(step=8))
    assert (tmp_path / NAME).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
