"""A base that is stored in fewer bits is named as such, before anything is read or planned."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import lowregret
from lowregret.errors import ModelError
from lowregret.models.load import load_config, resolve
from lowregret.models.quantised import in_nf4
from lowregret.plan.shapes.lookup import find_model

TINY = Path(lowregret.__file__).parent / "models" / "bundled" / "tiny"
DESCRIBED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("quantization_config", {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "bitsandbytes, 4 bit"),
    ("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes, 8 bit"),
    ("quantization_config", {"quant_method": "gptq", "bits": 3, "group_size": 128}, "gptq, 3 bit"),
    ("quantization_config", {"quant_method": "awq", "bits": 4, "version": "gemm"}, "awq, 4 bit"),
    ("quantization_config", {"quant_method": "fp8", "fmt": "e4m3"}, "fp8, 8 bit"),
    ("quantization_config", {"quant_method": "mxfp4"}, "mxfp4, 4 bit"),
    ("quantization_config", {"quant_method": "exl2", "bits": 4.25}, "exl2, 4.25 bit"),
    ("quantization_config", {"quant_method": "hqq", "weight_quant_params": {"nbits": 2}}, "hqq, 2 bit"),
    ("quantization_config", {"quant_method": "torchao", "quant_type": {"default": {}}}, "torchao"),
    (
        "quantization_config",
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4}}}},
        "compressed-tensors, 4 bit",
    ),
    ("compression_config", {"format": "pack-quantized"}, "a method without a name"),
    ("quantization", {"group_size": 64, "bits": 4}, "a method without a name, 4 bit"),
)


def base(folder: Path, **values: Any) -> Path:
    """The bundled base with other values in its config.json."""
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    return folder


@pytest.mark.parametrize(("key", "held", "words"), DESCRIBED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_quantised_folder_is_refused_by_its_method(
    key: str, held: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = base(tmp_path / "q", **{key: held})
    for find in (find_model, resolve):
        with pytest.raises(ModelError, match=f"is quantised: {key} in config.json says {words}.*Use the original"):
            find(str(folder))


@pytest.mark.parametrize(
    ("name", "held", "words"),
    [
        ("quantize_config.json", {"bits": 4, "damp_percent": 0.1}, "4 bit"),
        ("hf_quant_config.json", {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}, "NVFP4"),
    ],
)
def test_a_file_beside_the_config_tells_it_too(name: str, held: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = base(tmp_path / "q")
    find_model(str(folder))
    (folder / name).write_text(json.dumps(held))
    for find in (find_model, resolve):
        with pytest.raises(ModelError, match=f"{name} says .*{words}"):
            find(str(folder))


def test_the_original_is_named_where_the_config_names_it(tmp_path: Path) -> None:
    folder = base(tmp_path / "q", _name_or_path="maker/base", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ModelError, match="made from \\(maker/base\\)"):
        find_model(str(folder))


def test_the_text_model_of_a_multimodal_one_is_looked_at(tmp_path: Path) -> None:
    folder = base(tmp_path / "q", text_config={"quantization_config": {"quant_method": "fp8"}})
    with pytest.raises(ModelError, match="fp8, 8 bit"):
        resolve(str(folder))


@pytest.mark.parametrize("held", [None, {}])
def test_an_empty_description_is_none(held: Any, tmp_path: Path) -> None:
    folder = base(tmp_path / "q", quantization_config=held)
    find_model(str(folder))
    load_config(resolve(str(folder)))


def test_nf4_of_bitsandbytes_is_a_base_for_training_alone(tmp_path: Path) -> None:
    folder = base(tmp_path / "q", quantization_config={"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"})
    assert in_nf4(load_config(resolve(str(folder))).to_dict())
    with pytest.raises(ModelError, match="bitsandbytes, 4 bit"):
        find_model(str(folder))
