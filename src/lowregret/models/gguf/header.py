"""What a .gguf file says of itself, and which files are its parts: headers only, and without torch.

The format is that of the GGUF specification, versions 2 and 3 (ggml, docs/gguf.md): magic, version, counts, metadata as
key, type and value, then for each tensor its name, its dimensions (fastest first), its type and its offset. A split
model is several such files, NAME-00001-of-0000N.gguf and so on, each with `split.no`, `split.count` and
`split.tensors.count`; the metadata are in the first (llama.cpp, tools/gguf-split).
"""

from __future__ import annotations

import mmap
import re
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowregret import limits
from lowregret.errors import ModelError
from lowregret.foreign import open_file, reason

_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_DAMAGED = "it is no GGUF file, is damaged or cut off. Fetch it again"
_STRING, _ARRAY = 8, 9
_KINDS: tuple[tuple[str, Any], ...] = (
    *((end, str) for end in ("general.architecture", "rope.scaling.type", "tokenizer.ggml.model", "chat_template")),
    *((end, (int, bool)) for end in ("attention.sliding_window_pattern",)),
    *((end, (int, float)) for end in ("freq_base", "freq_base_swa", "scale_linear", "scaling.factor", "attn_factor")),
    *((end, (int, float)) for end in ("layer_norm_rms_epsilon", "layer_norm_epsilon", "beta_fast", "beta_slow")),
    *((end, (int, float)) for end in ("yarn_ext_factor", "yarn_attn_factor", "yarn_log_multiplier")),
    *((end, int) for end in (
        "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size", "head_count",
        "head_count_kv", "key_length", "value_length", "key_length_mla", "value_length_mla", "sliding_window",
        "dimension_count", "original_context_length", "expert_count", "expert_used_count", "nextn_predict_layers",
        "expert_feed_forward_length", "expert_shared_feed_forward_length", "expert_gating_func", "conv_kernel",
        "state_size", "time_step_rank", "inner_size", "split.no", "split.count", "split.tensors.count",
        "general.alignment",
    )),
)  # fmt: skip
"""What a key that ends so holds, itself or as a list with a value for each layer."""
_PER_LAYER = ("feed_forward_length", "head_count", "head_count_kv", "sliding_window_pattern")
_LONGEST_ARRAY = 4096
"""Longer ones are a tokenizer's: skipped."""
_ALIGNMENT = 32
"""Of the data, in bytes, where `general.alignment` says nothing."""
_BLOCK = re.compile(r"blk\.\d{1,4}\.[^.]", re.ASCII)
_PART = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file, as its header has it."""

    name: str
    shape: tuple[int, ...]
    """Slowest dimension first."""
    type: int
    """ggml's number of how it is stored."""
    offset: int
    """From the beginning of the file's data, in bytes."""


@dataclass(frozen=True)
class Part:
    """The header of one file."""

    path: Path
    version: int
    metadata: dict[str, Any]
    """Without long arrays, which are None."""
    pairs: int
    """How many keys there are."""
    ends: int
    """Where the keys end, in bytes from the beginning of the file."""
    data: int
    """Where the data begin."""
    tensors: tuple[Tensor, ...]

    alignment: int = _ALIGNMENT
    """What the offsets of its data are multiples of, in bytes."""


@dataclass(frozen=True)
class Header:
    """A whole model: the headers of its parts."""

    name: str
    """What messages call it."""
    parts: tuple[Part, ...]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the family."""
        return str(self.parts[0].metadata.get("general.architecture", ""))

    @property
    def fields(self) -> dict[str, Any]:
        """The metadata; those of the family without its name before them."""
        return {key.removeprefix(f"{self.architecture}."): v for key, v in self.parts[0].metadata.items()}

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Of all parts."""
        return tuple(tensor for part in self.parts for tensor in part.tensors)


def read_header(path: Path, name: str) -> Header:
    """The headers of the language model whose first (or only) file is `path`; messages call it `name`.

    ModelError: it is no GGUF file, cut off in its header, a part that is not the first, lacks a part or a layer, or
    holds no language model.
    """
    first = _read(path, name)
    count = int(first.metadata.get("split.count") or 1)
    header = Header(name, _parts(first, count, name) if count > 1 else (first,))
    _whole(header)
    return header


def _read(path: Path, name: str) -> Part:
    try:
        with open_file(path, ModelError) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            part = _header(path, data, name)
    except (struct.error, ValueError, OSError) as error:
        raise ModelError(f"{name}: its header cannot be read ({reason(error)}): {_DAMAGED}.") from error
    _check_kinds(part, name)
    return part


def _check_kinds(part: Part, name: str) -> None:
    """ModelError when a key that is read by its name is of another kind than the specification says."""
    for key, value in part.metadata.items():
        wanted: Any = next((kinds for end, kinds in _KINDS if key == end or key.endswith(f".{end}")), None)
        if wanted is None or value is None:
            continue
        values = value if isinstance(value, list) and key.endswith(_PER_LAYER) else [value]
        if not all(_is(one, wanted) for one in values):
            raise ModelError(f"{name}: its header says {key} = {value!s:.60}, which that cannot be. Fetch it again.")
        most = limits.LAYERS if key.endswith(".block_count") else limits.COUNT
        if wanted is int and any(not 0 <= one <= most for one in values):
            said = f"its header says {key} = {value!s:.60}; from 0 to {most:,} can be built"
            raise ModelError(f"{name}: {said}. Fetch it again.")


def _is(value: Any, wanted: Any) -> bool:
    """Whether it is of the kind; a count may be written as a number with a point."""
    if wanted is not int:
        return isinstance(value, wanted)
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _parts(first: Part, count: int, name: str) -> tuple[Part, ...]:
    number = int(first.metadata.get("split.no") or 0) + 1
    match = _PART.match(first.path.name)
    if match is None or int(match["count"]) != count or int(match["number"]) != number:
        raise ModelError(
            f"{name}: is part {number} of {count} of a split model (split.count), and must be called "
            f"NAME-{number:05d}-of-{count:05d}.gguf, with the other parts beside it. Rename it, or merge the parts "
            "(llama-gguf-split --merge)."
        )
    paths = [first.path.with_name(f"{match['stem']}-{part:05d}-of-{count:05d}.gguf") for part in range(1, count + 1)]
    if number != 1:
        raise ModelError(f"{name}: is part {number} of {count} of a split model. Name the first: {paths[0].name}.")
    lacking = [path.name for path in paths if not path.is_file()]
    if lacking:
        raise ModelError(
            f"{name}: is part 1 of {count} (split.count), and {', '.join(lacking[:3])} "
            f"{'is' if len(lacking) == 1 else 'are'} not beside it. Fetch all {count} parts into one folder."
        )
    parts = [first, *(_read(path, str(path)) for path in paths[1:])]
    for place, part in enumerate(parts):
        if (part.metadata.get("split.no") or 0, part.metadata.get("split.count")) != (place, count):
            raise ModelError(f"{part.path}: does not say that it is part {place + 1} of {count}. Fetch it again.")
    stored, said = sum(len(part.tensors) for part in parts), first.metadata.get("split.tensors.count")
    if said is not None and said != stored:
        raise ModelError(
            f"{name}: its parts hold {stored} tensors, and split.tensors.count is {said}. Fetch them again."
        )
    return tuple(parts)


def _whole(header: Header) -> None:
    """ModelError when it is no language model, or lacks or repeats some of its tensors."""
    counts = Counter(tensor.name for tensor in header.tensors)
    layers = header.fields.get("block_count")
    embedding = next((tensor for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
    if embedding is None or len(embedding.shape) != 2 or not isinstance(layers, int):
        raise ModelError(f"{header.name}: holds no language model (general.architecture {header.architecture!r}).")
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ModelError(f"{header.name}: holds {twice[0]} twice. Fetch it again.")
    for name in counts:
        if name.partition(".")[0] == "blk" and not _BLOCK.match(name):
            raise ModelError(f"{header.name}: holds a tensor {name[:60]!r}, which is of no layer. Fetch it again.")
    there = {int(name.split(".")[1]) for name in counts if name.startswith("blk.")}
    if lacking := sorted(set(range(layers)) - there):
        raise ModelError(
            f"{header.name}: holds no tensor of layer {lacking[0]} ({len(lacking)} of {layers} layers are missing): it "
            "is a part of a model, or a broken download. Give the whole model."
        )


def _header(path: Path, data: mmap.mmap, name: str) -> Part:
    magic, version, tensors, pairs = struct.unpack_from("<4sIQQ", data)
    if magic != b"GGUF" or version not in (2, 3):
        raise ModelError(f"{name}: is no GGUF file of version 2 or 3 (it starts with {magic!r}, version {version}).")
    if tensors > limits.GGUF_TENSORS or pairs > limits.GGUF_KEYS:
        raise ValueError(f"it says that it has {tensors:,} tensors and {pairs:,} keys")
    reader = _Reader(data, 24)
    metadata: dict[str, Any] = {}
    for _ in range(pairs):
        key = reader.string()
        if key in metadata:
            raise ValueError(f"the key {key[:40]!r} stands twice")
        metadata[key] = reader.value(reader.number("I"))
    ends = reader.at
    found = [_tensor(reader) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment > 1 << 20 or alignment & (alignment - 1):
        raise ValueError(f"general.alignment is {alignment!s:.40}")
    begins = -(-reader.at // alignment) * alignment
    if wrong := next((tensor for tensor in found if tensor.offset % alignment), None):
        raise ValueError(f"{wrong.name[:60]} begins at {wrong.offset}, no multiple of {alignment}")
    return Part(path, version, metadata, pairs, ends, begins, tuple(found), alignment)


def _tensor(reader: _Reader) -> Tensor:
    name = reader.string()
    count = reader.number("I")
    if not 1 <= count <= limits.GGUF_DIMENSIONS:
        raise ValueError(f"{name[:60]!r} has {count:,} dimensions")
    dimensions = [reader.number("Q") for _ in range(count)]
    if not all(0 < size <= limits.COUNT for size in dimensions):
        raise ValueError(f"{name[:60]!r} has the shape {dimensions}")
    return Tensor(name, tuple(reversed(dimensions)), reader.number("I"), reader.number("Q"))


class _Reader:
    """A place in the file that moves on."""

    def __init__(self, data: mmap.mmap, at: int) -> None:
        self.data = data
        self.at = at

    def number(self, code: str) -> int:
        value: int = struct.unpack_from("<" + code, self.data, self.at)[0]
        self.at += struct.calcsize("<" + code)
        return value

    def string(self) -> str:
        length = self.number("Q")
        self.pass_over(length)
        return self.data[self.at - length : self.at].decode("utf-8")

    def pass_over(self, size: int) -> None:
        """So many bytes. ValueError when the file has not as many."""
        if size > len(self.data) - self.at:
            raise ValueError(f"{size:,} bytes are said to follow byte {self.at:,}, and {len(self.data):,} are all")
        self.at += size

    def value(self, kind: int) -> Any:
        """Numbers, strings and short arrays; None for a long array, which is passed over."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.number(_format(kind))
        inner, count = self.number("I"), self.number("Q")
        if inner == _ARRAY:
            raise ValueError("an array of arrays, which llama.cpp does not read either")
        if count > limits.GGUF_ITEMS:
            raise ValueError(f"an array of {count:,} items")
        if count <= _LONGEST_ARRAY:
            return [self.value(inner) for _ in range(count)]
        if inner == _STRING:
            for _ in range(count):
                self.pass_over(self.number("Q"))
        else:
            self.pass_over(count * struct.calcsize("<" + _format(inner)))
        return None


def _format(kind: int) -> str:
    if kind not in _FORMATS:
        raise ValueError(f"a value of the unknown kind {kind}")
    return _FORMATS[kind]
