"""What a merge writes beside the weights, what it refuses, and what it leaves behind."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from lowregret.engine import Engine
from lowregret.errors import ModelError, RecordsError
from lowregret.export.merged import opened, write
from lowregret.export.peft import export_policy
from lowregret.export.weights import StoredWeights
from lowregret.models import tensor_file
from lowregret.models.files import BUNDLED
from lowregret.models.tensor_file import Entry, write_tensors
from lowregret.runs.files import MANIFEST, SPEC
from lowregret.runs.manifest import Manifest, digests
from lowregret.spec import LoRA
from lowregret.strict_json import to_json


def tensors(folder: Path) -> dict[str, Tensor]:
    return {
        name: tensor
        for part in sorted(folder.glob("*.safetensors"))
        for name, tensor in safetensors.torch.load_file(part).items()
    }


def adapter(bases: ModuleType, folder: Path, architecture: str = "llama", base: str = "", **fields: Any) -> Path:
    engine = Engine(bases.small_base(architecture))
    bases.stir(engine.add_policy("lora", LoRA(**{"rank": 2, "alpha": 4, "targets": ("attention",), **fields})))
    export_policy(engine, "lora", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
    return folder


@pytest.fixture
def base(bases: ModuleType, tmp_path: Path) -> Path:
    """A llama's folder, with everything that a base may have beside it."""
    made, folder = bases.small_base("llama"), tmp_path / "base"
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}<eos>")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("x")
    (folder / "LICENSE").write_text("terms")
    (folder / "README.md").write_text("of the base")
    (folder / "consolidated.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 5, "temperature": 0.7}))
    return folder


def merge(base: Path, adapters: Mapping[Path, float], out: Path, **options: Any) -> tuple[write.Written, list[str]]:
    lines: list[str] = []
    with opened.opened(str(base), list(adapters.items()), lines.append) as weights:
        return write.write_merged(weights, out, **options), lines


@pytest.mark.parametrize("dtypes", [(torch.float32,), (torch.bfloat16, torch.float32, torch.int64, torch.float16)])
def test_a_file_is_what_safetensors_writes(dtypes: tuple[torch.dtype, ...], tmp_path: Path) -> None:
    shapes = [(3, 5), (7,), (), (0, 4)]
    made = {f"{dtype} {shape}": (10 * torch.randn(shape)).to(dtype) for dtype in dtypes for shape in shapes}
    entries = [Entry(name, tuple(tensor.shape), tensor.dtype) for name, tensor in made.items()]
    write_tensors(tmp_path / "ours", entries, lambda entry: made[entry.name])
    safetensors.torch.save_file(made, tmp_path / "theirs", {"format": "pt"})
    ours, theirs = (safetensors.torch.load_file(tmp_path / name) for name in ("ours", "theirs"))
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in theirs)
    with safe_open(tmp_path / "ours", "pt") as held:
        assert held.metadata() == {"format": "pt"}
    header = json.loads((tmp_path / "ours").read_bytes()[8:].partition(b"}}")[0] + b"}}")
    sizes = {str(entry.dtype): entry.dtype.itemsize for entry in entries}
    for name, said in header.items():
        if name != "__metadata__":
            assert said["data_offsets"][0] % sizes[name.split(" ")[0]] == 0, "each begins at a multiple of its size"


def test_all_that_belongs_to_a_base_travels(bases: ModuleType, base: Path, tmp_path: Path) -> None:
    written, _ = merge(base, {adapter(bases, tmp_path / "adapter"): 1.0}, tmp_path / "out")
    out = tmp_path / "out"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE"):
        assert (out / name).read_bytes() == (base / name).read_bytes()
    assert (out / "additional_chat_templates" / "rag.jinja").read_text() == "x"
    assert sorted(written.files) == ["model.safetensors"]
    left = {"README.md", "consolidated.safetensors"}
    assert {path.name for path in base.iterdir()} - {path.name for path in out.iterdir()} == left
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["temperature"] == 0.7
    assert generation["eos_token_id"] == [5, 1], "the tokenizer's EOS and the template's end of turn as well"
    config = json.loads((base / "config.json").read_text())
    assert json.loads((out / "config.json").read_text()) == config
    modes = {stat.S_IMODE(path.stat().st_mode) for path in out.rglob("*") if path.is_file()}
    assert modes == {0o644}


def test_shards_have_an_index_and_a_size(base: Path, tmp_path: Path) -> None:
    written, _ = merge(base, {}, tmp_path / "out", shard_bytes=6_000)
    before = tensors_of(base / "model.safetensors")
    assert len(written.files) > 2
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == written.bytes == sum(t.nbytes for t in before.values())
    for name in written.files:
        held = tensors_of(tmp_path / "out" / name)
        assert {key for key, place in index["weight_map"].items() if place == name} == set(held)
        assert sum(t.nbytes for t in held.values()) <= 6_000 or len(held) == 1
    after = tensors(tmp_path / "out")
    assert set(after) == set(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    again, _ = merge(tmp_path / "out", {}, tmp_path / "again", shard_bytes=10**9)
    assert again.files == ("model.safetensors",)
    assert not (tmp_path / "again" / "model.safetensors.index.json").exists()


def tensors_of(part: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(part)


def test_a_full_fine_tuning_is_written_in_another_type(base: Path, tmp_path: Path) -> None:
    written, _ = merge(base, {}, tmp_path / "out", dtype=torch.bfloat16)
    assert (written.dtype, written.updates_lost) == (torch.bfloat16, None)
    before, after = tensors_of(base / "model.safetensors"), tensors(tmp_path / "out")
    assert all(torch.equal(after[name], before[name].bfloat16()) for name in before)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_no_room_is_told_before_anything_is_written(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write.shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000))
    with pytest.raises(RecordsError, match=r"out: needs [\d,]+ bytes, and the disk has 1,000 left"):
        merge(base, {}, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_nothing_half_written_stays(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up although there was room; an older folder under the name is as it was."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("kept")

    def full(path: Path, entries: Any, read: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(write, "write_tensors", full)
    with pytest.raises(RecordsError, match="the disk is full"):
        merge(base, {}, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]
    assert (tmp_path / "out" / "old").read_text() == "kept"


def test_what_float16_cannot_hold_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    held = tensors_of(base / "model.safetensors")
    held["model.norm.weight"][3] = 1e5
    safetensors.torch.save_file(held, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.norm holds numbers that are not finite .*write bfloat16"):
        merge(base, {}, tmp_path / "out", dtype=torch.float16)
    assert not (tmp_path / "out").exists()
    merge(base, {}, tmp_path / "out", dtype=torch.bfloat16)


def test_a_base_by_the_adapters_own_name(bases: ModuleType, base: Path, tmp_path: Path) -> None:
    first = adapter(bases, tmp_path / "first", base=str(base))
    same = adapter(bases, tmp_path / "same", base=f"somebody/{base.name}")
    other = adapter(bases, tmp_path / "other", base="somebody/else")
    none = adapter(bases, tmp_path / "none")
    assert opened.named_base([first, same]) == str(base)
    with pytest.raises(ModelError, match=r"names the base somebody/else, and .* names .*base"):
        opened.named_base([first, other])
    with pytest.raises(ModelError, match=r"adapter_config\.json: names no base\. Name it with --model"):
        opened.named_base([none])
    _, lines = merge(base, {other: 1.0}, tmp_path / "out")
    assert len(lines) == 1
    assert "was made on somebody/else; it is put on" in lines[0]


def test_another_base_is_refused_by_the_hashes_of_the_run(bases: ModuleType, base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    made = adapter(bases, run / "best" / "lora")
    (run / SPEC).write_text("{}")
    known = digests({"model.safetensors": base / "model.safetensors", "config.json": base / "config.json"})
    (run / MANIFEST).write_text(to_json(Manifest(base=known, train="", test="").model_dump(mode="json")))
    merge(base, {made: 1.0}, tmp_path / "out")
    other = tmp_path / "other"
    shutil.copytree(base, other)
    bases.small_base("llama", seed=1).model.save_pretrained(other)
    with pytest.raises(
        ModelError, match=r"other: its model\.safetensors is not the one that the run .* was trained on"
    ):
        merge(other, {made: 1.0}, tmp_path / "not")
    assert not (tmp_path / "not").exists()


def test_a_quantised_base_names_its_original(bases: ModuleType, base: Path, tmp_path: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    bits = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}, "_name_or_path": "some/base"}
    (base / "config.json").write_text(json.dumps(config | bits))
    with pytest.raises(ModelError, match=r"is quantised: .* Use the original, .*\(some/base\)"):
        merge(base, {adapter(bases, tmp_path / "adapter"): 1.0}, tmp_path / "out")


def test_where_a_base_once_lay_is_left_out(base: Path, tmp_path: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"_name_or_path": "/home/somebody/base"}))
    merge(base, {}, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == config


def test_an_adapter_of_other_shapes_is_refused(bases: ModuleType, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"adapts transformer\.h\.0\..*, which this base does not have"):
        merge(base, {adapter(bases, tmp_path / "adapter", "gpt2"): 1.0}, tmp_path / "out")


def test_one_file_of_a_base_is_open_at_a_time(base: Path, tmp_path: Path) -> None:
    merge(base, {}, tmp_path / "cut", shard_bytes=6_000)
    with StoredWeights(tmp_path / "cut") as held:
        for name in held.names:
            assert torch.equal(held.read(name), tensors_of(base / "model.safetensors")[name])
            assert held._open is not None


def test_the_bundled_base_is_written_as_it_is(tmp_path: Path) -> None:
    with opened.opened("tiny") as weights:
        write.write_merged(weights, tmp_path / "out")
    before, after = tensors_of(BUNDLED / "tiny" / "model.safetensors"), tensors(tmp_path / "out")
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert tensor_file._NAMES[torch.float32] == "F32"
