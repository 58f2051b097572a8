"""A folder that the hub takes: which files, with what in them, and what must not come along."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from transformers import AutoTokenizer

from lowregret.errors import ModelError, RecordsError, SpecError
from lowregret.export.hub_folder import hub_folder
from lowregret.export.places import refuse_places
from lowregret.lora.formats.peft import WEIGHTS_NAME
from lowregret.models.files import BUNDLED
from lowregret.report.reading import load_study
from lowregret.runs.atomic import replacing_folder

TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter as a trainer of somebody else leaves it."""
    folder = tmp_path / "run" / "checkpoint-10"
    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "/home/me/models/base",
        "r": 4,
        "target_modules": r".*/home/me\.(q|k)_proj",
        "corda_config": {"cache_file": "/home/me/cache.pt"},
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / WEIGHTS_NAME).write_bytes(b"weights")
    for name in ("trainer_state.json", "training_args.bin", "optimizer.pt", "rng_state.pth", "trial.json", "README.md"):
        (folder / name).write_text("/home/me")
    return folder


def shipped(source: Path, out: Path, **options: Any) -> tuple[dict[str, bytes], str | None]:
    with replacing_folder(out) as partial:
        warning = hub_folder(source, partial, **{"base": "tiny", **options})
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}, warning


def test_an_adapter_comes_with_its_bases_tokenizer_and_nothing_else(adapter: Path, tmp_path: Path) -> None:
    found, warning = shipped(adapter, tmp_path / "out", base_name="org/base")
    assert set(found) == {"adapter_config.json", WEIGHTS_NAME, "generation_config.json", *TOKENIZER}
    assert found[WEIGHTS_NAME] == b"weights"
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert found[name] == (BUNDLED / "tiny" / name).read_bytes()
    assert warning is None
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert modes == {0o644}
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    base = AutoTokenizer.from_pretrained(BUNDLED / "tiny")
    assert tokenizer("What is 2+2?")["input_ids"] == base("What is 2+2?")["input_ids"]
    assert tokenizer.chat_template == base.chat_template


def test_the_adapter_names_its_base_as_the_hub_does(adapter: Path, tmp_path: Path) -> None:
    found, _ = shipped(adapter, tmp_path / "out", base_name="org/base")
    config = json.loads(found["adapter_config.json"])
    assert config["base_model_name_or_path"] == "org/base"
    assert config["target_modules"] == r".*/home/me\.(q|k)_proj", "a pattern is no path"
    assert config["corda_config"] == {"cache_file": "cache.pt"}


def test_without_a_name_the_last_part_stands_there_and_a_line_says_so(adapter: Path, tmp_path: Path) -> None:
    found, warning = shipped(adapter, tmp_path / "out")
    assert json.loads(found["adapter_config.json"])["base_model_name_or_path"] == "tiny"
    assert warning is not None
    assert "--base-name" in warning


def test_the_adapters_own_tokenizer_comes_before_its_bases(adapter: Path, tmp_path: Path) -> None:
    own = AutoTokenizer.from_pretrained(BUNDLED / "tiny")
    own.add_tokens(["<new>"])
    own.save_pretrained(adapter)
    said = json.loads((adapter / "tokenizer_config.json").read_text())
    (adapter / "tokenizer_config.json").write_text(json.dumps(said | {"name_or_path": "/home/me/base"}))
    found, _ = shipped(adapter, tmp_path / "out", base_name="org/base")
    assert found["tokenizer.json"] == (adapter / "tokenizer.json").read_bytes()
    assert b"/home" not in found["tokenizer_config.json"]


def test_a_whole_model_comes_without_where_it_came_from(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for path in (BUNDLED / "tiny").iterdir():
        if path.is_file():
            (model / path.name).write_bytes(path.read_bytes())
    config = json.loads((model / "config.json").read_text())
    named = config | {"_name_or_path": "/home/me/base", "text_config": {"_name_or_path": "/home/me/text", "x": 1}}
    (model / "config.json").write_text(json.dumps(named))
    (model / "pytorch_model.bin").write_bytes(b"a pickle")
    found, _ = shipped(model, tmp_path / "out")
    assert set(found) == {"config.json", "model.safetensors", "generation_config.json", *TOKENIZER}
    assert json.loads(found["config.json"]) == config | {"text_config": {"x": 1}}


def test_the_verdict_comes_without_paths(adapter: Path, studies: ModuleType, tmp_path: Path) -> None:
    verdict = load_study(studies.write_study(tmp_path / "study")).verdict
    said = verdict.model_copy(update={"reasons": ("See /home/me/run/report.html.", *verdict.reasons)})
    found, _ = shipped(adapter, tmp_path / "out", verdict=said)
    assert b"/home" not in found["verdict.json"]
    assert json.loads(found["verdict.json"])["ci95"] == list(verdict.ci95 or ())


@pytest.mark.parametrize(
    ("spoil", "kind", "said"),
    [
        (lambda folder: (folder / WEIGHTS_NAME).unlink(), ModelError, "no such file"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), ModelError, "no JSON object"),
        (lambda folder: (folder / "adapter_config.json").unlink(), ModelError, "config.json: there is no such file"),
    ],
)
def test_half_an_adapter_is_refused_and_leaves_nothing(
    adapter: Path, tmp_path: Path, spoil: Any, kind: Any, said: str
) -> None:
    spoil(adapter)
    with pytest.raises(kind, match=said):
        shipped(adapter, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_base_name_that_is_none_is_refused(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--base-name"):
        shipped(adapter, tmp_path / "out", base_name="/home/me/base")


@pytest.mark.parametrize("name", ["README.md", "proof.json", "sub/notes.txt"])
def test_a_place_of_this_machine_is_found_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("made in /home/somebody/work")
    with pytest.raises(RecordsError, match="a place of this machine"):
        refuse_places(out)
    (out / name).write_text("made in /data/base")
    refuse_places(out)
    with pytest.raises(RecordsError, match="a place of this machine"):
        refuse_places(out, ["/data/base"])
    (out / name).unlink()
    (out / "tokenizer.json").write_text("/home/somebody/ is a token")
    refuse_places(out)
