"""Whether a base is stored in fewer bits than it was trained in. Torch-free.

LoRAs train over bitsandbytes' NF4. Of transformers' other quantisers none is tested here: some need a GPU and a library
of their own, and of those that can give the numbers back none was shown to give the right ones. A .gguf file is another
matter: it is dequantised when it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lowregret.errors import ModelError
from lowregret.foreign import read_json

_KEYS = ("quantization_config", "compression_config", "quantization")
"""In config.json: transformers' key; compressed-tensors' of before; MLX's."""
_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json", "quantization_config.json")
"""Of AutoGPTQ and AutoAWQ before transformers took them up, and of NVIDIA's ModelOpt."""
_BITS = ("bits", "w_bit", "num_bits", "nbits", "weight_bits")
_METHODS = ("quant_method", "quant_algo", "producer")
_FIXED = {"fp8": 8, "fbgemm_fp8": 8, "mxfp8": 8, "mxfp4": 4, "nvfp4": 4, "fouroversix": 4}
"""Bits that the name of a method says."""


def in_nf4(values: Mapping[str, Any]) -> bool:
    """Whether config.json `values` say that the weights are in bitsandbytes' NF4."""
    held = values.get("quantization_config")
    if not isinstance(held, Mapping):
        return False
    method = held.get("quant_method", "bitsandbytes")
    return method == "bitsandbytes" and held.get("load_in_4bit") is True and held.get("bnb_4bit_quant_type") == "nf4"


def refuse_quantised(
    values: Mapping[str, Any], asked: str, folder: Path | None = None, *, but_nf4: bool = False
) -> None:
    """ModelError when config.json `values`, or a file beside it, says that the weights are quantised.

    Args:
        values: of config.json.
        asked: what the user called the base.
        folder: where config.json lies, if it lies on this machine.
        but_nf4: for who can make use of bitsandbytes' NF4.
    """
    if but_nf4 and in_nf4(values):
        return
    found = _described(values, folder)
    if found is None:
        return
    place, held = found
    known = values.get("_name_or_path")
    original = known if isinstance(known, str) and known.count("/") == 1 and known != asked else ""
    raise ModelError(
        f"{asked}: is quantised: {place} says {_words(held)}. Its weights cannot be trained, merged or evaluated "
        f"here, nor is its memory planned. Use the original, in bfloat16 or float32, that it was made from"
        f"{f' ({original})' if original else ''}."
    )


def _described(values: Mapping[str, Any], folder: Path | None) -> tuple[str, Mapping[str, Any]] | None:
    """(where it stands, what it says) of the first description of a quantisation."""
    for inside in (values, *(part for part in values.values() if isinstance(part, Mapping))):  # text_config, too
        for key in _KEYS:
            if isinstance(inside.get(key), Mapping) and inside[key]:
                return f"{key} in config.json", inside[key]
    for name in _FILES if folder is not None else ():
        assert folder is not None
        try:
            held = read_json(folder / name, ModelError, "Fetch the file again.", finite=False)
        except FileNotFoundError:
            continue
        if isinstance(held, Mapping) and held:
            return name, held
    return None


def _words(held: Mapping[str, Any]) -> str:
    """`bitsandbytes, 4 bit`."""
    every = list(_leaves(held))
    methods = [value for name in _METHODS for key, value in every if key == name and isinstance(value, str)]
    method = methods[0] if methods else ""
    bits: float | None = _FIXED.get(method.lower())
    for loaded, size in (("load_in_4bit", 4), ("load_in_8bit", 8)):
        if (loaded, True) in every:
            method, bits = method or "bitsandbytes", size
    sizes = (value for key, value in every if key in _BITS and isinstance(value, int | float))
    bits = next(sizes, None) if bits is None else bits
    return ", ".join(filter(None, (method or "a method without a name", f"{bits:g} bit" if bits else "")))


def _leaves(held: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in held.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        elif isinstance(value, str | int | float):
            yield key, value
