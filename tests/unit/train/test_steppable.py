"""A method that cannot be stepped where it is to run is refused before anything is trained, with what would do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lowregret.engine.optim import blocks
from lowregret.errors import SpecError
from lowregret.spec import TrainSpec, build
from lowregret.train.steppable import require_steppable

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def spec(method: str, **more: Any) -> TrainSpec:
    return build(TrainSpec, {"model": "tiny", "data": {"train": "builtin:arithmetic"}, "method": method, **more})


def test_what_can_be_stepped_is_taken() -> None:
    require_steppable(spec("full"), CPU, "float32")
    require_steppable(spec("full:bf16"), CPU, "bfloat16")
    require_steppable(spec("full:bf16:in-backward"), GPU, "bfloat16")
    require_steppable(spec("lora:4:adamw8bit", offload_activations=True), GPU, "bfloat16")


@pytest.mark.parametrize(
    ("method", "more", "device", "dtype", "said"),
    [
        ("full:bf16", {}, CPU, "float32", ["full:bf16", "Use precision bfloat16", "full:adamw8bit"]),
        ("full:adamw8bit", {}, torch.device("mps"), "bfloat16", ["full:adamw8bit runs on cpu and cuda, not on mps"]),
        ("lora:4", {"offload_activations": True}, CPU, "float32", ["--offload-activations", "--checkpoint"]),
        ("lora:4", {"offload_activations": True, "devices": 2}, GPU, "bfloat16", ["one device, not for 2"]),
        ("lora:4:muon", {"devices": 2, "parallel": "tensor=2"}, GPU, "bfloat16", ["muon steps whole matrices"]),
    ],
)
def test_what_cannot_is_refused_with_what_would(
    method: str, more: Any, device: torch.device, dtype: str, said: list[str]
) -> None:
    with pytest.raises(SpecError) as error:
        require_steppable(spec(method, **more), device, dtype)
    assert all(words in str(error.value) for words in said), str(error.value)


def test_without_its_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise SpecError("moments of 8 bits need bitsandbytes (none). Run: pip install 'lowregret[lean]'.")

    monkeypatch.setattr("lowregret.train.steppable.require_library", missing)
    with pytest.raises(SpecError, match=r"lowregret\[lean\]"):
        require_steppable(spec("full:bf16"), CPU, "bfloat16")
    require_steppable(spec("full:muon"), CPU, "bfloat16")


def test_a_library_that_does_not_load_is_an_error_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks._library.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.functional", None)
    with pytest.raises(SpecError, match=r"pip install 'lowregret\[lean\]'"):
        blocks.require_library()
    monkeypatch.undo()
    blocks.require_library()
