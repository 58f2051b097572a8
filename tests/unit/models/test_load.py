"""A base that cannot be had is refused in words; nothing is fetched in these tests."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import safetensors.torch
import torch

from lowregret.engine import Engine
from lowregret.errors import ModelError
from lowregret.models.files import BUNDLED, folder_of
from lowregret.models.load import Source, bundled_names, load_base, load_tokenizer, resolve
from lowregret.plan.shapes.lookup import find_model
from lowregret.spec import FullFT


@pytest.fixture
def saved(bases: ModuleType, tmp_path: Path) -> Path:
    base = bases.small_base("llama")
    base.model.save_pretrained(tmp_path / "saved")
    base.tokenizer.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_folder_is_loaded_in_float32_and_without_dropout(saved: Path, bases: ModuleType) -> None:
    base = load_base(resolve(str(saved)))
    assert base.source == Source(str(saved), str(saved))
    assert base.pad_id == 0
    assert not base.model.training
    assert bases.same(base.model.state_dict(), bases.small_base("llama").model.state_dict())


def test_another_precision_is_kept(saved: Path) -> None:
    assert load_base(resolve(str(saved)), torch.bfloat16).model.dtype is torch.bfloat16


def test_bundled_bases_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bundled_names() == ["tiny", "tiny-32", "tiny-64", "tiny-moe"]
    assert Path(resolve("tiny").path).parts[-2:] == ("bundled", "tiny")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "spec.json").write_text("{}")  # a run, made with `--out tiny`
    assert Path(resolve("tiny").path).parts[-2:] == ("bundled", "tiny")
    assert find_model("tiny").total == find_model(str(BUNDLED / "tiny")).total
    assert folder_of("tiny") == BUNDLED / "tiny"
    (tmp_path / "tiny" / "model.safetensors").write_bytes(b"")  # a base of the user's own wins over a bundled name
    for read in (resolve, find_model):
        with pytest.raises(ModelError, match=r"config\.json"):
            read("tiny")
    assert folder_of("tiny") == Path("tiny")


def test_a_base_that_is_stored_in_bfloat16_trains_in_float32() -> None:
    folder = Path(resolve("tiny-moe").path)
    stored = safetensors.torch.load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert json.loads((folder / "card.json").read_text())["parameters"] == sum(t.numel() for t in stored.values())
    engine = Engine(load_base(resolve("tiny-moe")), precision="float32")
    policy = engine.add_policy("full", FullFT())
    assert {weight.dtype for weight in policy.weights.values()} == {torch.float32}
    assert engine.model.config.dtype is torch.float32, "what is exported must not be rounded again"


def test_bundled_bases_are_small() -> None:
    files = Path(resolve("tiny").path).parent.rglob("*")
    assert sum(file.stat().st_size for file in files if file.is_file()) < 12_000_000


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    (tmp_path / "file.bin").touch()
    (tmp_path / "empty").mkdir()
    for asked, words in {
        str(tmp_path / "gone"): "no such folder",
        str(tmp_path / "gone.gguf"): "no such file",
        str(tmp_path / "file.bin"): "is a file",
        str(tmp_path / "empty"): "no config.json",
        "./gone": "no such folder",
    }.items():
        with pytest.raises(ModelError, match=words):
            resolve(asked)


def test_a_hub_id_that_is_not_in_the_cache_says_so_and_what_is_bundled() -> None:
    with pytest.raises(ModelError, match=r"nobody/tinyy: .*not in the local cache.*Valid: .*tiny"):
        load_base(resolve("nobody/tinyy"))


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_folder_is_named(saved: Path, damage: str) -> None:
    (saved / damage).write_bytes(b"{ not what it was")
    with pytest.raises(ModelError, match=f"{saved.name}(: cannot be loaded|/{damage}: )"):
        load_base(resolve(str(saved)))


def test_missing_weights_are_an_error(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=f"{saved.name}: cannot be loaded"):
        load_base(resolve(str(saved)))


def test_a_missing_tensor_is_an_error_and_not_drawn_at_random(saved: Path) -> None:
    tensors = safetensors.torch.load_file(saved / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    safetensors.torch.save_file(tensors, saved / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"no model\.layers\.1\.mlp\.up_proj\.weight \(1 of"):
        load_base(resolve(str(saved)))


@pytest.mark.parametrize("architecture", ["qwen3", "gpt2", "opt"])
def test_a_tied_unembedding_is_not_missing(bases: ModuleType, architecture: str, tmp_path: Path) -> None:
    base = bases.small_base(architecture)
    base.model.save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    assert "lm_head.weight" not in safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert bases.same(load_base(resolve(str(tmp_path))).model.state_dict(), base.model.state_dict())


def test_a_missing_tokenizer_is_an_error(saved: Path) -> None:
    for file in saved.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=saved.name):
        load_tokenizer(resolve(str(saved)))
