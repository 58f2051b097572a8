"""Which files a base consists of: those that are loaded, and no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lowregret.models.files import base_files, bundled_names

SETTINGS = {"config.json", "tokenizer.json"}


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


def test_weights_settings_vocabulary_and_templates(tmp_path: Path) -> None:
    put(tmp_path, *SETTINGS, "model.safetensors", "chat_template.jinja", "additional_chat_templates/tools.jinja")
    put(tmp_path, "README.md", "optimizer.pt", "trial.json", "other.safetensors", "pytorch_model.bin")
    expected = SETTINGS | {"model.safetensors", "chat_template.jinja", "additional_chat_templates/tools.jinja"}
    assert set(base_files(str(tmp_path))) == expected


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_parts_are_those_of_the_index(tmp_path: Path, kind: str) -> None:
    put(tmp_path, *SETTINGS, "one", "two", "three")
    (tmp_path / f"{kind}.index.json").write_text(json.dumps({"weight_map": {"a": "two", "b": "one", "c": "two"}}))
    assert set(base_files(str(tmp_path))) == SETTINGS | {"one", "two", f"{kind}.index.json"}


@pytest.mark.parametrize("index", ["", "[]", '{"weight_map": 1}', '{"weight_map": {"a": 5}}'])
def test_a_broken_index_is_for_the_loader_to_tell(tmp_path: Path, index: str) -> None:
    put(tmp_path, *SETTINGS)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert set(base_files(str(tmp_path))) == SETTINGS | {"model.safetensors.index.json"}


def test_a_gguf_file_and_all_its_parts(tmp_path: Path) -> None:
    put(tmp_path, "a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf", "b-00001-of-00003.gguf", "b.gguf")
    assert set(base_files(str(tmp_path / "a.gguf"))) == {"a.gguf"}
    assert set(base_files(str(tmp_path / "b-00001-of-00002.gguf"))) == {
        "b-00001-of-00002.gguf",
        "b-00002-of-00002.gguf",
    }


def test_bundled_and_absent_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all({"model.safetensors", "config.json"} <= set(base_files(name)) for name in bundled_names())
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert base_files("nobody/nothing") == {}
    snapshot = tmp_path / "models--nobody--nothing" / "snapshots" / "abc"
    put(snapshot, *SETTINGS, "model.safetensors")
    assert set(base_files("nobody/nothing")) == SETTINGS | {"model.safetensors"}


def test_a_gguf_file_is_found_whatever_signs_its_name_has(tmp_path: Path) -> None:
    """Without its hash a run would not notice another base."""
    for name in ("model[v2].gguf", "a[b]-00001-of-00002.gguf", "a[b]-00002-of-00002.gguf", "ab-00001-of-00002.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    assert list(base_files(str(tmp_path / "model[v2].gguf"))) == ["model[v2].gguf"]
    parts = ["a[b]-00001-of-00002.gguf", "a[b]-00002-of-00002.gguf"]
    assert list(base_files(str(tmp_path / parts[0]))) == parts
