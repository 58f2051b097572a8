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

from lowregret.errors import ModelError

_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST_ARRAY = 4096
"""Longer ones are a tokenizer's: skipped."""
_ALIGNMENT = 32
"""Of the data, in bytes, where `general.alignment` says nothing."""
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

    @property
    def alignment(self) -> int:
        """What the offsets of its data are multiples of, in bytes."""
        return int(self.metadata.get("general.alignment") or _ALIGNMENT)


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
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _header(path, data, name)
    except (struct.error, IndexError, KeyError, UnicodeDecodeError, ValueError, OSError) as error:
        raise ModelError(f"{name}: its header cannot be read ({error}): it is no GGUF file, or is cut off.") from error


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
    if "token_embd.weight" not in counts or not isinstance(layers, int):
        raise ModelError(f"{header.name}: holds no language model (general.architecture {header.architecture!r}).")
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ModelError(f"{header.name}: holds {twice[0]} twice. Fetch it again.")
    there = {int(name.split(".")[1]) for name in counts if re.match(r"blk\.\d+\.", name)}
    if lacking := sorted(set(range(layers)) - there):
        raise ModelError(
            f"{header.name}: holds no tensor of layer {lacking[0]} ({len(lacking)} of {layers} layers are missing): it "
            "is a part of a model, or a broken download. Give the whole model."
        )


def _header(path: Path, data: mmap.mmap, name: str) -> Part:
    magic, version, tensors, pairs = struct.unpack_from("<4sIQQ", data)
    if magic != b"GGUF" or version not in (2, 3):
        raise ModelError(f"{name}: is no GGUF file of version 2 or 3 (it starts with {magic!r}, version {version}).")
    reader = _Reader(data, 24)
    metadata = {reader.string(): reader.value(reader.number("I")) for _ in range(pairs)}
    ends = reader.at
    found = []
    for _ in range(tensors):
        tensor = reader.string()
        dimensions = struct.unpack_from(f"<{(count := reader.number('I'))}Q", data, reader.at)
        reader.at += 8 * count
        found.append(Tensor(tensor, tuple(reversed(dimensions)), reader.number("I"), reader.number("Q")))
    alignment = int(metadata.get("general.alignment") or _ALIGNMENT)
    return Part(path, version, metadata, pairs, ends, -(-reader.at // alignment) * alignment, tuple(found))


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
        self.at += length
        return self.data[self.at - length : self.at].decode("utf-8")

    def value(self, kind: int) -> Any:
        """Numbers, strings and short arrays; None for a long array, which is passed over."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.number(_FORMATS[kind])
        inner, count = self.number("I"), self.number("Q")
        if count <= _LONGEST_ARRAY:
            return [self.value(inner) for _ in range(count)]
        if inner == _STRING:
            at, data, length = self.at, self.data, struct.Struct("<Q").unpack_from
            for _ in range(count):
                at += 8 + length(data, at)[0]
            self.at = at
        else:
            self.at += count * struct.calcsize("<" + _FORMATS[inner])
        return None
