"""How a file of a known form is spoilt: by its bytes, by its JSON, by what stands in its place."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NUMBERS = (0, 1, 9, 99, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
VALUES: tuple[Any, ...] = (
    None, -1, 0, 1, 2, 3, 7, 10**5, 10**9, 2**31, 2**63, 10**30, -5.5, 0.5, 1e300, float("inf"), float("nan"),
    "", "abc", "../../x", "/dev/zero", "\x1b[31mX", "9" * 50, "(a+)+$", "\ud800", [], {}, [1], [[]], {"a": 1}, True,
    False, [None], ["x"], {"": {"": []}},
)  # fmt: skip
WHOLE = (
    b"", b"[]", b"5", b"null", b'"x"', b"{}", b"{", b"[" * 100_000, b'{"a":' * 3000, b"\xff\xfe", b"NaN", b"\0" * 4096,
    b'{"a":1,"a":2}', b"9" * 6000, b'["' + b"x" * 3_000_000 + b'"]', b"[" + b"[]," * 200_000 + b"[]]",
)  # fmt: skip


def spoil_bytes(random: random.Random, content: bytes) -> tuple[bytes, str]:
    """One to four changes of bytes: set, flipped, cut off, put in, taken out, or a number of 4 or 8 bytes."""
    data = bytearray(content)
    said = []
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        if len(data) < 16:
            break
        place, what = random.randrange(len(data)), random.randrange(7)
        if what == 0:
            data[place] = random.randrange(256)
        elif what == 1:
            place = min(place, len(data) - 8)
            data[place : place + 8] = struct.pack("<Q", random.choice(NUMBERS))
        elif what == 2:
            place = min(place, len(data) - 4)
            data[place : place + 4] = struct.pack("<I", random.choice(NUMBERS) & 0xFFFFFFFF)
        elif what == 3:
            del data[place:]
        elif what == 4:
            data[place:place] = random.randbytes(random.randrange(1, 40))
        elif what == 5:
            del data[place : place + random.randrange(1, 30)]
        else:
            data[place] ^= 1 << random.randrange(8)
        said.append(f"{('set', 'u64', 'u32', 'cut', 'put', 'take', 'flip')[what]}@{place}")
    return bytes(data), " ".join(said)


def spoil_json(random: random.Random, content: bytes) -> tuple[bytes, str]:
    """A value of a JSON text replaced, taken out, or the text itself spoilt."""
    if random.random() < 0.12:
        whole = random.choice(WHOLE)
        return whole, f"whole={whole[:12]!r}"
    if random.random() < 0.12:
        return spoil_bytes(random, content)
    value = json.loads(content)
    said = []
    for _ in range(random.choice((1, 1, 1, 2))):
        places = list(paths(value))
        if not places:
            break
        said.append(_spoil_value(random, value, random.choice(places)))
    return json.dumps(value).encode(), " ".join(said)


def spoil_lines(random: random.Random, content: bytes) -> tuple[bytes, str]:
    """One line of JSON Lines spoilt, doubled, or taken out."""
    lines = content.splitlines()
    if not lines:
        return random.choice(WHOLE), "whole"
    rank, what = random.randrange(len(lines)), random.randrange(10)
    if what == 0:
        lines.insert(rank, lines[rank])
        said = "doubled"
    elif what == 1:
        del lines[rank]
        said = "taken out"
    elif what == 2:
        return spoil_bytes(random, content)
    else:
        lines[rank], said = spoil_json(random, lines[rank])
    return b"\n".join(lines) + random.choice((b"\n", b"\n", b"")), f"line {rank}: {said}"


def paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a JSON value has values; of a long list the first twenty."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value[:20]) if isinstance(value, list) else ()
    for key, item in items:
        yield (*before, key)
        yield from paths(item, (*before, key))


def _spoil_value(random: random.Random, value: Any, path: tuple[Any, ...]) -> str:
    try:
        for key in path[:-1]:
            value = value[key]
        if random.random() < 0.15:
            del value[path[-1]]
            return f"{'.'.join(map(str, path))} gone"
        value[path[-1]] = new = random.choice(VALUES)
    except (KeyError, IndexError, TypeError):
        return "nothing"  # an earlier change took it away
    return f"{'.'.join(map(str, path))}={new!r:.30}"


def spoil_safetensors(random: random.Random, content: bytes) -> tuple[bytes, str]:
    """The length of the header, the header's JSON, or any byte."""
    length = struct.unpack("<Q", content[:8])[0]
    what = random.randrange(4)
    if what == 0:
        other = random.choice((0, 1, length - 1, length + 1, 100_000_001, *NUMBERS))
        return struct.pack("<Q", other) + content[8:], f"length={other}"
    if what == 1:
        return spoil_bytes(random, content)
    header = json.loads(content[8 : 8 + length])
    if what == 2:
        name = random.choice([key for key in header if key != "__metadata__"])
        field, new = random.choice((
            ("dtype", random.choice(("F64", "F16", "BF16", "I8", "I64", "F8_E4M3", "XX", "BOOL", "C64", 5))),
            ("shape", random.choice(([0], [2**40, 2**40], [-1], [], [1, 2, 3], "x", None))),
            ("data_offsets", random.choice(([0, 0], [0, 2**63], [5, 1], [-4, 4], [0], None))),
        ))  # fmt: skip
        header[name][field] = new
        said = f"{name}.{field}={new}"
    else:
        name = random.choice(list(header))
        new = random.choice(("../../x", "\x1b[31m", name + "x", name.replace("0", "99"), ""))
        header[new] = header.pop(name)
        said = f"{name} is called {new!r}"
    made = json.dumps(header).encode()
    return struct.pack("<Q", len(made)) + made + content[8 + length :], said


def spoil_place(random: random.Random, path: Path) -> str:
    """What is no regular file stands in the place of a file."""
    what = random.choice(("fifo", "zero", "random", "folder", "socket", "dangling", "loop", "unreadable"))
    path.unlink(missing_ok=True)
    if what == "fifo":
        os.mkfifo(path)
    elif what in ("zero", "random"):
        path.symlink_to(f"/dev/{'zero' if what == 'zero' else 'urandom'}")
    elif what == "folder":
        path.mkdir()
    elif what == "socket":
        _bind(path)
    elif what == "loop":
        path.symlink_to(path)
    else:
        path.symlink_to("/nowhere/at/all" if what == "dangling" else "/proc/self/mem")
    return f"{path.name} is {what}"


def _bind(path: Path) -> None:
    """A path of a socket may have 107 bytes: it is bound from its own folder."""
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


Spoil = Callable[[random.Random, bytes], tuple[bytes, str]]


def spoil_file(random: random.Random, path: Path, spoil: Spoil) -> str:
    """Spoil a file of a folder, whose link to the seed is replaced; what was done."""
    if random.random() < 0.03:
        return spoil_place(random, path)
    content, said = spoil(random, path.read_bytes())
    path.unlink()
    path.write_bytes(content)
    return f"{path.name} {said}"
