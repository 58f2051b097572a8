"""Weights are numbers: what a file of weights would run is not run, whoever names it."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lowregret.data.readers.registry import open_source
from lowregret.errors import DataError, ModelError
from lowregret.lora.formats.peft import read_adapter
from lowregret.models.load import load_base, resolve


class Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.trace,)


def in_a_zip(held: Any, file: Path) -> None:
    torch.save(held, file)


def alone(held: Any, file: Path) -> None:
    file.write_bytes(pickle.dumps(held, protocol=2))


def of_before_torch_1_6(held: Any, file: Path) -> None:
    torch.save(held, file, _use_new_zipfile_serialization=False)


every_form = pytest.mark.parametrize("write", [in_a_zip, alone, of_before_torch_1_6])
Write = Callable[[Any, Path], None]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "it ran"


@pytest.fixture
def base(bases: ModuleType, tmp_path: Path) -> Path:
    """A base without its weights."""
    folder = tmp_path / "base"
    found = bases.small_base("llama")
    found.model.save_pretrained(folder)
    found.tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    return folder


@every_form
def test_the_trap_works(write: Write, trace: Path, tmp_path: Path) -> None:
    write(Runs(trace), tmp_path / "trap.bin")
    with zipfile.ZipFile(tmp_path / "trap.bin") if write is in_a_zip else open(tmp_path / "trap.bin", "rb") as file:
        if isinstance(file, zipfile.ZipFile):
            inner = next(name for name in file.namelist() if name.endswith("data.pkl"))
            pickle.loads(file.read(inner))
        else:
            torch.load(file, weights_only=False) if write is of_before_torch_1_6 else pickle.load(file)
    assert trace.exists()


@every_form
@pytest.mark.parametrize("place", ["alone", "among weights"])
def test_a_base_as_a_pickle_that_runs_something_is_refused(write: Write, place: str, base: Path, trace: Path) -> None:
    room = torch.zeros(10_000)  # else its files are found too small for its configuration
    held = (Runs(trace), room) if place == "alone" else {"lm_head.weight": room, "more": Runs(trace)}
    write(held, base / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"nothing of it was run\. Give the base as safetensors"):
        load_base(resolve(str(base)))
    assert not trace.exists()


def test_a_base_as_a_pickle_of_weights_is_read(bases: ModuleType, base: Path) -> None:
    weights = bases.small_base("llama").model.state_dict()
    torch.save(weights, base / "pytorch_model.bin")
    assert bases.same(load_base(resolve(str(base))).model.state_dict(), weights)


@every_form
def test_an_adapter_as_a_pickle_is_not_read(write: Write, trace: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1}')
    write(Runs(trace), folder / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter_model\.bin: is a pickle.*save_pretrained"):
        read_adapter(folder)
    shutil.copy(folder / "adapter_model.bin", folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="cannot be read"):
        read_adapter(folder)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["rows.pkl", "rows.pickle"])
def test_data_as_a_pickle_are_not_read(name: str, trace: Path, tmp_path: Path) -> None:
    alone(Runs(trace), tmp_path / name)
    with pytest.raises(DataError, match="Parquet"):
        open_source(str(tmp_path / name)).load("train")
    assert not trace.exists()
