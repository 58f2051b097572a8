"""A checkpoint is whole or refused; it never half-restores in silence."""

from __future__ import annotations

import errno
from pathlib import Path
from types import ModuleType

import pytest
import safetensors.torch
import torch

from lowregret.data.batches import collate
from lowregret.engine import AdamParams, Engine
from lowregret.engine.state import save_sealed
from lowregret.errors import RecordsError
from lowregret.models.tensor_file import Entry
from lowregret.runs.files import CHECKPOINT
from lowregret.runs.records import TrialRecord
from lowregret.spec import LoRA, TrialSpec
from lowregret.train.checkpoint import Progress, Standing, delete_checkpoint, read_checkpoint, save_checkpoint

PROGRESS = Progress(step=7, tokens=1234, seconds=0.1 + 0.2, peak_memory_bytes=2**40, alone_seconds_per_token=1 / 3)
TRIAL = TrialSpec(method=LoRA(rank=3, alpha=3), learning_rate=1e-3 / 3, seed=1)
STANDING = Standing(name="policy", trial=TRIAL, progress=PROGRESS)


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


def load(engine: Engine, folder: Path, name: str = "policy") -> Standing:
    checkpoint = read_checkpoint(folder)
    assert checkpoint is not None
    checkpoint.restore(engine, name)
    return next(member for member in checkpoint.members if member.name == name)


def test_weights_moments_and_progress_come_back_to_the_bit(engine: Engine, bases: ModuleType, tmp_path: Path) -> None:
    save_checkpoint(engine, tmp_path, [STANDING])
    other = fresh(bases)
    assert load(other, tmp_path) == STANDING
    before, after = engine.policies["policy"], other.policies["policy"]
    assert bases.same(bases.weights(after), bases.weights(before))
    assert bases.same(after.optimizer.state(), before.optimizer.state())
    assert not list(tmp_path.glob("*.partial"))


def test_a_pack_is_one_file_with_the_trials_that_had_ended(engine: Engine, bases: ModuleType, tmp_path: Path) -> None:
    """Two members whose names and sizes differ, in the order in which they joined."""
    engine.add_policy("p", LoRA(rank=1, targets=("mlp",)), seed=5)
    ended = TrialRecord(
        id="a", method="full", learning_rate=0.1, seed=0, status="pruned", spec=TRIAL, test_nll=1 / 7, pruned_by="b"
    )
    second = Standing(name="p", trial=TRIAL.model_copy(update={"seed": 2}), progress=Progress())
    save_checkpoint(engine, tmp_path, [STANDING, second], [ended])
    other = Engine(bases.small_base("qwen3"))
    other.add_policy("p", LoRA(rank=1, targets=("mlp",)), seed=6)
    assert load(other, tmp_path, "p") == second
    assert bases.same(bases.weights(other.policies["p"]), bases.weights(engine.policies["p"]))
    found = read_checkpoint(tmp_path)
    assert found is not None
    assert found.members == (STANDING, second)
    assert found.records == (ended,)


def test_none_means_the_start(engine: Engine, tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path) is None
    save_checkpoint(engine, tmp_path, [STANDING])
    delete_checkpoint(tmp_path)
    delete_checkpoint(tmp_path)
    assert read_checkpoint(tmp_path) is None


@pytest.mark.parametrize("damage", ["empty", "cut", "header", "text"])
def test_a_damaged_file_is_refused_by_name(engine: Engine, bases: ModuleType, tmp_path: Path, damage: str) -> None:
    save_checkpoint(engine, tmp_path, [STANDING])
    whole = (tmp_path / CHECKPOINT).read_bytes()
    broken = {"empty": b"", "cut": whole[:-100], "header": b"\xff" * 8 + whole[8:], "text": b"not a checkpoint\n"}
    (tmp_path / CHECKPOINT).write_bytes(broken[damage])
    with pytest.raises(RecordsError, match=rf"{CHECKPOINT}: the checkpoint is damaged \(.*Delete it"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "metadata", [{}, {"pack": "{"}, {"pack": '{"members": [{"name": "policy"}], "records": []}'}], ids=str
)
def test_missing_progress_is_damage(engine: Engine, tmp_path: Path, metadata: dict[str, str]) -> None:
    engine.save("policy", tmp_path / CHECKPOINT, metadata)
    with pytest.raises(RecordsError, match="damaged"):
        read_checkpoint(tmp_path)


def test_one_flipped_bit_is_found_wherever_it_is(engine: Engine, tmp_path: Path) -> None:
    """In a weight, a moment, the progress, the digest itself."""
    save_checkpoint(engine, tmp_path, [STANDING], identity="this run")
    path = tmp_path / CHECKPOINT
    whole = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [
        *range(header, len(whole), 997),
        len(whole) - 1,
        whole.index(b'"step\\":7') + 9,
        whole.index(b"digest") + 12,
    ]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(RecordsError, match="the checkpoint is damaged"):
            read_checkpoint(tmp_path, "this run")
    path.write_bytes(whole)
    assert read_checkpoint(tmp_path, "this run") is not None


def test_the_checkpoint_of_another_run_is_refused(engine: Engine, tmp_path: Path) -> None:
    save_checkpoint(engine, tmp_path, [STANDING], identity="that run")
    with pytest.raises(RecordsError, match=r"is the checkpoint of another run.*Put back"):
        read_checkpoint(tmp_path, "this run")


def test_another_policys_checkpoint_is_refused(engine: Engine, bases: ModuleType, tmp_path: Path) -> None:
    save_checkpoint(engine, tmp_path, [STANDING])
    for other in (fresh(bases, rank=2), fresh(bases, targets=("mlp",))):
        start = bases.weights(other.policies["policy"])
        with pytest.raises(RecordsError, match=r"shape|other weights"):
            load(other, tmp_path)
        assert bases.same(bases.weights(other.policies["policy"]), start)


def seal(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    entries = [Entry(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()]
    save_sealed(entries, lambda entry: tensors[entry.name], path, metadata)


def test_a_foreign_optimizer_state_is_refused(engine: Engine, bases: ModuleType, tmp_path: Path) -> None:
    save_checkpoint(engine, tmp_path, [STANDING])
    path = tmp_path / CHECKPOINT
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    metadata.pop("digest")
    tensors = safetensors.torch.load_file(path)
    uncounted = {key: value for key, value in tensors.items() if key != "policy/steps"}
    for wrong in ({**tensors, "policy/adam/exp_avg/elsewhere": torch.zeros(3)}, uncounted):
        seal(wrong, path, metadata)
        with pytest.raises(RecordsError, match="damaged"):
            load(fresh(bases), tmp_path)


def test_a_failed_write_leaves_the_last_checkpoint(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(engine, tmp_path, [STANDING])
    before = (tmp_path / CHECKPOINT).read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lowregret.engine.state.numbers_of", full)
    with pytest.raises(RecordsError, match="the disk is full"):
        save_checkpoint(engine, tmp_path, [STANDING])
    assert (tmp_path / CHECKPOINT).read_bytes() == before
