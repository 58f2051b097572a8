"""What a folder tells of the model in it, and the commands that follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lowregret.errors import RecordsError
from lowregret.runs.commands import OWN, VLLM_RANKS, commands, on_hub, rendered
from lowregret.runs.forms import Shipped, default_name, look, served_name


def adapter(folder: Path, **fields: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 16, "base_model_name_or_path": "a/b", **fields}))
    return folder


def test_an_adapter_tells_its_base_and_its_rank(tmp_path: Path) -> None:
    fields = {"rank_pattern": {"q_proj": 24}, "use_dora": True, "target_modules": ["q_proj", "model.lm_head"]}
    found = look(adapter(tmp_path / "run" / "adapter", **fields))
    assert (found.form, found.base, found.rank, found.dora, found.unembedding) == ("peft", "a/b", 24, True, True)
    assert found.name == "run"


@pytest.mark.parametrize("field", [{"target_modules": "all-linear"}, {"target_modules": None}, {}])
def test_targets_that_are_no_list_are_no_error(tmp_path: Path, field: dict[str, Any]) -> None:
    assert not look(adapter(tmp_path / "adapter", **field)).unembedding


@pytest.mark.parametrize("written", ["[]", "{", '{"rank_pattern": []}'])
def test_a_damaged_configuration_is_named(tmp_path: Path, written: str) -> None:
    (tmp_path / "adapter_config.json").write_text(written)
    with pytest.raises(RecordsError, match=r"adapter_config\.json"):
        look(tmp_path)


def test_other_forms_are_told_by_their_files(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="holds neither an adapter"):
        look(tmp_path)
    (tmp_path / "config.json").touch()
    assert look(tmp_path).form == "merged"
    (tmp_path / "Modelfile").touch()
    assert look(tmp_path).form == "ollama"
    assert look(tmp_path / "x.gguf").form == "gguf"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("run/best/lora", "run-lora"),
        ("run/adapter", "run"),
        ("run/model", "run"),
        ("x/mine", "mine"),
        ("x/m.gguf", "m"),
    ],
)
def test_a_model_is_called_by_the_run_that_it_comes_from(path: str, name: str) -> None:
    assert default_name(Path(path)) == name


@pytest.mark.parametrize("name", ["a b", "../x", "é", "", "-", "a=b,c:d", "x" * 100, "\n'\"$(ls)"])
def test_a_served_name_is_one_everywhere(name: str) -> None:
    found = served_name(name)
    assert 0 < len(found) <= 64
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert found[0] not in "-."


def serving(**fields: Any) -> str:
    facts = {"form": "peft", "place": "out", "name": "x", "base": "a/b", "rank": 16, **fields}
    return next(command.text for command in commands(Shipped(**facts)) if command.text.startswith("vllm serve"))


@pytest.mark.parametrize(("rank", "room"), [(1, 8), (8, 8), (9, 16), (257, 320), (512, 512)])
def test_vllm_gets_a_rank_that_it_knows_and_that_holds_the_adapter(rank: int, room: int) -> None:
    assert f"--max-lora-rank {room} " in serving(rank=rank)


@pytest.mark.parametrize("fields", [{"dora": True}, {"rank": VLLM_RANKS[-1] + 1}, {"base": "x.gguf"}])
def test_what_vllm_does_not_take_is_merged(fields: dict[str, Any]) -> None:
    facts = {"form": "peft", "place": "out", "name": "x", "base": "a/b", "rank": 16, **fields}
    found = commands(Shipped(**facts))
    assert not [command for command in found if command.program == "vLLM"]
    (merged,) = [command for command in found if "merged" in command.text]
    assert "vLLM does not take" in merged.note


def test_only_an_adapter_with_settings_of_its_own_has_vllm_read_them() -> None:
    assert "--generation-config out" in serving(generation=True)
    assert "--generation-config" not in serving(generation=False)


def test_on_the_hub_no_place_and_no_verb_of_ours_stands() -> None:
    shipped = Shipped(form="peft", place="/home/me/out", name="x", base="/home/me/base", rank=4)
    found = on_hub(shipped, "me/x", None)
    assert found
    assert not any("/home" in command.text or command.program == OWN for command in found)
    assert any("BASE" in command.text for command in found)
    gguf = on_hub(Shipped(form="gguf", place="/home/me/x.gguf", name="x"), "me/x", None)
    assert any(command.text.startswith("llama-server -hf me/x") for command in gguf)


def test_a_terminal_shows_what_can_be_pasted() -> None:
    found = commands(Shipped(form="merged", place="out", name="x"))
    said = rendered(found)
    assert all(command.text in said for command in found)
    python = [block for block in said.split("\n\n# ") if "(Python)" in block.splitlines()[0]]
    assert python
    for block in python:
        compile(f"# {block}", "pasted", "exec")
