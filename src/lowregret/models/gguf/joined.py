"""A split model as the one file that transformers reads."""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lowregret.errors import ModelError
from lowregret.models.gguf.header import Header, Part, read_header


@contextmanager
def one_file(folder: str, file: str, name: str, *, data: bool) -> Iterator[tuple[str, str]]:
    """(folder, file) of a model in one file: its own, or for a split model one that is there until the block ends.

    Without `data` the file has all that a header says, and zeros for weights, which take no room on the disk. With
    them it takes as much as the parts, in the folder for temporary files (TMPDIR). ModelError where there is no room.
    """
    path = Path(folder) / file
    header = read_header(path, name)
    if len(header.parts) == 1:
        yield folder, file
        return
    with tempfile.TemporaryDirectory(prefix="lowregret-gguf-") as temporary:
        sizes = [part.path.stat().st_size - part.data for part in header.parts]
        room = shutil.disk_usage(temporary).free
        if data and sum(sizes) > room:
            raise ModelError(
                f"{name}: its {len(sizes)} parts are joined in {temporary} to be loaded, which needs "
                f"{sum(sizes) / 1e9:.1f} GB, and {room / 1e9:.1f} GB are free. Name a folder with room by TMPDIR, or "
                "merge the parts (llama-gguf-split --merge)."
            )
        with (Path(temporary) / file).open("wb") as joined:
            _write(joined, header, sizes, data)
        yield temporary, file


def _write(joined: BinaryIO, header: Header, sizes: list[int], data: bool) -> None:
    first = header.parts[0]
    alignment = first.alignment
    bases = [0]
    for size in sizes:
        bases.append(-(-(bases[-1] + size) // alignment) * alignment)
    with first.path.open("rb") as file:
        file.seek(24)
        metadata = file.read(first.ends - 24)
    joined.write(struct.pack("<4sIQQ", b"GGUF", first.version, len(header.tensors), first.pairs))
    joined.write(metadata)
    for part, base in zip(header.parts, bases, strict=False):
        joined.write(_table(part, base))
    begin = -(-joined.tell() // alignment) * alignment
    for part, base, size in zip(header.parts, bases, sizes, strict=False):
        joined.seek(begin + base)
        if data:
            with part.path.open("rb") as file:
                file.seek(part.data)
                shutil.copyfileobj(file, joined, 1 << 24)
        joined.truncate(begin + base + size)


def _table(part: Part, base: int) -> bytes:
    """The entries of a part's tensors, whose data begin `base` bytes further on."""
    entries = []
    for tensor in part.tensors:
        text = tensor.name.encode()
        dimensions = tuple(reversed(tensor.shape))
        entries.append(struct.pack("<Q", len(text)) + text + struct.pack("<I", len(dimensions)))
        entries.append(struct.pack(f"<{len(dimensions)}QIQ", *dimensions, tensor.type, base + tensor.offset))
    return b"".join(entries)
