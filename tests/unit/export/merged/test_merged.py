"""What is refused before a merged folder has its name, and what a folder holds that was written."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import AutoTokenizer

from lowregret.engine import Engine
from lowregret.errors import LowregretError
from lowregret.export.merged import write as writing
from lowregret.export.merged.opened import opened
from lowregret.export.merged.write import write_merged
from lowregret.export.peft import export_policy
from lowregret.models.files import BUNDLED
from lowregret.models.load import load_base, resolve
from lowregret.spec import LoRA

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def base(bases: ModuleType, tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    bases.small_model("llama").save_pretrained(folder)
    bases.small_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(bases: ModuleType, base: Path, tmp_path: Path) -> Path:
    return made(bases, base, tmp_path / "adapter")


def made(bases: ModuleType, base: Path, out: Path, **fields: Any) -> Path:
    engine = Engine(load_base(resolve(str(base))), precision="float32")
    method = LoRA(**{"rank": 4, "alpha": 4, "targets": ("attention", "unembedding"), **fields})
    bases.stir(engine.add_policy("lora", method))
    export_policy(engine, "lora", out)
    return out


def edit(file: Path, change: Edit) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def edit_weights(folder: Path, change: Edit, name: str = "model.safetensors") -> None:
    tensors = safetensors.torch.load_file(folder / name)
    change(tensors)
    safetensors.torch.save_file(tensors, folder / name, {"format": "pt"})


def refused(problem: str, model: Path | None, *adapters: Path, out: Path, dtype: torch.dtype | None = None) -> None:
    """With exit code 2, and nothing under the name that was asked for, nor beside it."""
    there = set(out.parent.iterdir())
    with pytest.raises(LowregretError, match=problem) as raised:  # noqa: SIM117
        with opened(None if model is None else str(model), [(path, 1.0) for path in adapters], dtype) as weights:
            write_merged(weights, out)
    assert raised.value.exit_code == 2
    assert set(out.parent.iterdir()) == there


# --- what does not fit ----------------------------------------------------------------------------------------------


def test_every_matrix_that_is_adapted_must_be_in_the_files(base: Path, adapter: Path, tmp_path: Path) -> None:
    name = "model.layers.1.self_attn.k_proj.weight"
    edit_weights(base, lambda tensors: tensors.pop(name))
    refused(f"{re.escape(name.removesuffix('.weight'))} is adapted, and the files", base, adapter, out=tmp_path / "out")


def test_one_expert_that_is_missing_is_told(bases: ModuleType, tmp_path: Path) -> None:
    base = tmp_path / "base"
    bases.small_model("qwen3_moe").save_pretrained(base)
    bases.small_tokenizer().save_pretrained(base)
    adapter = made(bases, base, tmp_path / "adapter", targets=("experts",), rank=8)
    edit_weights(base, lambda tensors: tensors.pop("model.layers.1.mlp.experts.3.down_proj.weight"))
    refused("layers.1.mlp.experts.down_proj is adapted", base, adapter, out=tmp_path / "out")


def test_a_weight_of_the_adapter_that_has_no_place_is_told(base: Path, adapter: Path, tmp_path: Path) -> None:
    def stray(tensors: dict[str, Any]) -> None:
        for half in "AB":
            key = f"base_model.model.model.layers.1.self_attn.k_proj.lora_{half}.weight"
            tensors[key.replace("layers.1", "layers.7")] = tensors.pop(key)

    edit_weights(adapter, stray, "adapter_model.safetensors")
    refused("adapts model.layers.7.self_attn.k_proj, which this base does not have", base, adapter, out=tmp_path / "o")


def test_another_base_of_the_same_shapes_by_its_weights(
    bases: ModuleType, base: Path, adapter: Path, tmp_path: Path
) -> None:
    """The run's manifest has the hashes of what it was trained on."""
    from lowregret.models.files import base_files
    from lowregret.runs.manifest import Manifest, digests, note_manifest

    run = tmp_path / "run"
    shutil.copytree(adapter, run / "adapter")
    (run / "spec.json").write_text("{}")
    note_manifest(run, Manifest(base=digests(base_files(str(base))), train="", test=""))
    with opened(str(base), [(run / "adapter", 1.0)]) as weights:
        write_merged(weights, tmp_path / "right")
    other = tmp_path / "other" / "base"
    bases.small_model("llama", seed=1).save_pretrained(other)
    bases.small_tokenizer().save_pretrained(other)
    refused("its model.safetensors is not the one", other, run / "adapter", out=tmp_path / "out")


def test_another_base_by_the_copy_of_its_embedding(
    bases: ModuleType, base: Path, adapter: Path, tmp_path: Path
) -> None:
    """PEFT saves the weight of an adapted unembedding beside the adapter."""
    head = safetensors.torch.load_file(base / "model.safetensors")["lm_head.weight"]
    edit_weights(
        adapter,
        lambda tensors: tensors.update({"base_model.model.lm_head.base_layer.weight": head}),
        "adapter_model.safetensors",
    )
    with opened(str(base), [(adapter, 1.0)]) as weights:
        write_merged(weights, tmp_path / "right")
    other = tmp_path / "other" / "base"
    bases.small_model("llama", seed=1).save_pretrained(other)
    bases.small_tokenizer().save_pretrained(other)
    refused("with other values than this base has", other, adapter, out=tmp_path / "out")


def test_another_name_is_said(base: Path, adapter: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    moved = tmp_path / "renamed"
    shutil.copytree(base, moved)
    with opened(str(moved), [(adapter, 1.0)], say=lines.append):
        pass
    assert len(lines) == 1
    assert "was made on" in lines[0]


def test_adapters_of_two_bases(bases: ModuleType, base: Path, adapter: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    edit(other / "adapter_config.json", lambda config: config.update(base_model_name_or_path="somebody/else"))
    refused("was made on somebody/else", None, adapter, other, out=tmp_path / "out")
    edit(other / "adapter_config.json", lambda config: config.pop("base_model_name_or_path"))
    refused("names no base", None, other, out=tmp_path / "out")


def test_a_quantised_base_is_refused_with_the_name_of_its_original(base: Path, adapter: Path, tmp_path: Path) -> None:
    edit(
        base / "config.json",
        lambda config: config.update(
            quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}, _name_or_path="maker/original"
        ),
    )
    refused(r"bitsandbytes, 4 bit.*\(maker/original\)", base, adapter, out=tmp_path / "out")


def test_a_hub_id_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    refused("hf download maker/model", Path("maker/model"), out=tmp_path / "out")


# --- damage and room ------------------------------------------------------------------------------------------------


def test_a_base_that_is_cut_off(base: Path, adapter: Path, tmp_path: Path) -> None:
    whole = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused("model.safetensors: cannot be read", base, adapter, out=tmp_path / "out")
    (base / "model.safetensors").unlink()
    refused("no safetensors file", base, adapter, out=tmp_path / "out")


def test_no_space_is_seen_before(base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10**9, 10**9 - 100, 100))
    refused("needs 0.00 GB, and the disk has 0.00 GB left", base, adapter, out=tmp_path / "out")


def test_space_that_ends_while_writing(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors")

    monkeypatch.setattr(writing, "save_tensors", full)
    refused("the disk is full", base, adapter, out=tmp_path / "out")


def test_what_float16_cannot_hold(base: Path, adapter: Path, tmp_path: Path) -> None:
    edit_weights(base, lambda tensors: tensors["model.norm.weight"].mul_(1e6))
    refused("model.norm.weight: has a weight of .*65504", base, adapter, out=tmp_path / "out", dtype=torch.float16)


def test_what_an_earlier_one_has_written_stays(base: Path, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    refused("is there already", base, adapter, out=out)
    assert (out / "mine.txt").read_text() == "mine"


# --- what is written ------------------------------------------------------------------------------------------------


def test_the_folder_is_whole(tmp_path: Path) -> None:
    """Tokenizer, template and stops travel, everybody may read them, and no name of this machine is in them."""
    out = tmp_path / "out"
    before = os.umask(0o022)
    try:
        with opened("tiny") as weights:
            written = write_merged(weights, out)
    finally:
        os.umask(before)
    assert weights.updates_lost is None
    assert written.files == ("model.safetensors",)
    expected = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {file.name for file in out.iterdir()} == {*expected, "chat_template.jinja", "model.safetensors"}
    for file in out.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o644, file
    one, other = (AutoTokenizer.from_pretrained(folder) for folder in (BUNDLED / "tiny", out))
    chat = [{"role": "user", "content": "2 + 2"}]
    assert one.apply_chat_template(chat, tokenize=False) == other.apply_chat_template(chat, tokenize=False)
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == one.eos_token_id


def test_what_the_base_holds_in_more_bits_stays_so(base: Path, tmp_path: Path) -> None:
    def mixed(tensors: dict[str, Any]) -> None:
        for name, value in tensors.items():
            tensors[name] = value.to(torch.float32 if "norm" in name else torch.bfloat16)

    edit_weights(base, mixed)
    with opened(str(base), dtype=torch.float16) as weights:
        write_merged(weights, tmp_path / "out")
    found = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    assert all(value.dtype == (torch.float32 if "norm" in name else torch.float16) for name, value in found.items())


def test_a_gguf_file_is_merged_as_what_its_numbers_are(
    bases: ModuleType, load_module: Callable[[Path], ModuleType], tmp_path: Path
) -> None:
    """It is dequantised in a folder that is gone afterwards."""
    import tempfile

    files = load_module(Path(__file__).parents[3] / "gguf_files.py")
    llama = files.model("Llama")
    file = files.write(tmp_path / "base.gguf", "llama", files.tensors(llama, "llama"), files.fields(llama))
    adapter = made(bases, file, tmp_path / "adapter", targets=("attention",))
    before = set(Path(tempfile.gettempdir()).glob("lowregret-gguf-*"))
    with opened(str(file), [(adapter, 1.0)]) as weights:
        write_merged(weights, tmp_path / "out")
    assert set(Path(tempfile.gettempdir()).glob("lowregret-gguf-*")) == before
    model = load_base(resolve(str(file))).model
    found = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    changed = {name for name, value in found.items() if not torch.equal(value, model.state_dict()[name])}
    assert changed == {name for name in found if "self_attn" in name}


def test_an_unknown_way_to_make_a_tensor_is_refused(
    bases: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Were transformers to stack a family's experts otherwise, nothing would be added at the wrong place."""
    from lowregret.export.merged import places

    base = tmp_path / "base"
    bases.small_model("mixtral").save_pretrained(base)
    bases.small_tokenizer().save_pretrained(base)
    adapter = made(bases, base, tmp_path / "adapter", targets=("experts",), rank=8)
    monkeypatch.setattr(places, "MergeModulelist", object)
    refused("transformers makes it of .*block_sparse_moe", base, adapter, out=tmp_path / "out")
