"""A model's folder is looked at before a library reads it: its files are files, its sizes can be built and fit."""

from __future__ import annotations

import json
import os
import shutil
import time
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from lowregret.errors import ModelError
from lowregret.models.load import load_base, load_config, load_tokenizer, resolve
from lowregret.plan.shapes.lookup import find_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "base"
    shutil.copytree(str(resources.files("lowregret.models") / "bundled" / "tiny-32"), made)
    return made


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_bytes()) | fields))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_a_pipe_or_a_device_is_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ModelError, match=f"{name}: is a pipe"):
        resolve(str(folder))
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(ModelError, match=f"{name}: is a device"):
        resolve(str(folder))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_hidden_layers": 10**5}, "num_hidden_layers = 100000; at most 1,000"),
        ({"num_hidden_layers": 10**30}, "num_hidden_layers = 1e"),
        ({"hidden_size": 10**9}, "hidden_size = "),
        ({"vocab_size": 2**63}, "vocab_size = "),
    ],
)
def test_what_cannot_be_built_is_refused_at_once_by_both(folder: Path, fields: dict[str, Any], words: str) -> None:
    change(folder / "config.json", **fields)
    for read in (resolve, find_model):
        with pytest.raises(ModelError, match=words.replace("1e", "")):
            read(str(folder))


@pytest.mark.parametrize(
    "fields",
    [
        {"num_hidden_layers": 900, "layer_types": ["full_attention"] * 900},
        {"hidden_size": 2**15},
        {"vocab_size": 2**25},
        {"intermediate_size": 2**24},
    ],
)
def test_a_configuration_that_does_not_fit_its_files_is_not_built(folder: Path, fields: dict[str, Any]) -> None:
    change(folder / "config.json", **fields)
    began = time.monotonic()
    with pytest.raises(ModelError, match="the two are not of one model"):
        load_base(resolve(str(folder)))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({"weight_map": {"a": "../../../etc/passwd"}}, "passwd', which is not in this folder"),
        ({"weight_map": {"a": "/dev/zero"}}, "zero', which is not in this folder"),
        ({"weight_map": {"a": "gone.safetensors"}}, "which is not in this folder"),
        ({"weight_map": {"a": 5}}, "no table of weights"),
        ({"weight_map": None}, "no table of weights"),
        ([], "no table of weights"),
    ],
)
def test_an_index_names_files_beside_it(folder: Path, held: Any, words: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(held))
    with pytest.raises(ModelError, match=words):
        resolve(str(folder))


def test_so_does_an_index_of_pickles_where_it_is_read(folder: Path) -> None:
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../other/part.bin"}}))
    resolve(str(folder))  # model.safetensors is read instead
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"bin\.index\.json: names the file '\.\./other/part\.bin', which is not in"):
        resolve(str(folder))


@pytest.mark.parametrize("fields", [{"eos_token": 5}, {"model_max_length": "x"}, {"tokenizer_class": {}}])
def test_a_damaged_tokenizer_is_named(folder: Path, fields: dict[str, Any]) -> None:
    change(folder / "tokenizer_config.json", **fields)
    with pytest.raises(ModelError, match="base: cannot be loaded"):
        load_tokenizer(resolve(str(folder)))


@pytest.mark.parametrize("fields", [{"head_dim": 0.5}, {"layer_types": [[]]}, {"rope_parameters": 7}])
def test_a_damaged_configuration_is_named(folder: Path, fields: dict[str, Any]) -> None:
    change(folder / "config.json", **fields)
    with pytest.raises(ModelError, match="base"):
        load_base(resolve(str(folder)))


def test_a_configuration_that_is_right_still_loads(folder: Path) -> None:
    change(folder / "config.json", time_step_limit=[0.0, float("inf")])
    assert load_config(resolve(str(folder))).num_hidden_layers > 0
    assert load_base(resolve(str(folder))).model is not None
