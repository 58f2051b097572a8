"""A folder as `ship` leaves it, in small, and a hub to send it to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import pytest

from lowregret.runs.proof import Proof


@pytest.fixture(scope="session")
def hubs(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    """tests/hub.py."""
    return load_module(Path(__file__).parents[2] / "hub.py")


@pytest.fixture(scope="session")
def studies(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    """The report's studies that nobody ran."""
    return load_module(Path(__file__).parents[1] / "report" / "studies.py")


@pytest.fixture
def hub(hubs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A stand-in for the hub, which huggingface_hub takes for it, and a token that it knows."""
    with hubs.serving() as found:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", found.address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", hubs.TOKEN)
        yield found


@pytest.fixture(scope="session")
def proven() -> Callable[..., Proof]:
    """`proven(holds=False, …)`: a proof."""
    return proof


def proof(weights: bytes = b"", **changed: Any) -> Proof:
    facts: dict[str, Any] = {
        "form": "peft",
        "precision": "float32",
        "reader": "peft 0.21",
        "reference": "lowregret's engine",
        "texts": 3,
        "positions": 40,
        "compared": "logits",
        "largest_difference": 1.5e-5,
        "mean_difference": 1e-6,
        "bound": "largest difference under 1e-3",
        "holds": True,
        "seconds": 1.0,
        "bytes": len(weights),
        "files": {"adapter_model.safetensors": hashlib.sha256(weights).hexdigest()},
    }
    return Proof(**facts | changed)


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A folder that may be published."""
    folder, weights = tmp_path / "shipped", bytes(range(256)) * 40
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4}))
    (folder / "README.md").write_text("---\nlibrary_name: peft\n---\n# x\n")
    (folder / "proof.json").write_text(proof(weights).model_dump_json())
    return folder
