"""Where rows come from: files, the hub, built-in generators. Gives plain dicts, or why a row could not be read."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from lowregret.errors import DataError

FILE_SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")
BUILTIN_PREFIX = "builtin:"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
_HELD_OUT_SPLITS = ("test", "validation")


@dataclass(frozen=True)
class Broken:
    """A row that could not be read."""

    reason: str


Record = tuple[int, dict[str, Any] | Broken]


@dataclass(frozen=True)
class Table:
    """The rows of one split, before their columns mean anything."""

    records: list[Record]
    """Each with its number, from 1: the physical line it starts on in JSONL and CSV, else its rank."""
    numbering: Literal["line", "row"]


@dataclass(frozen=True)
class OpenSource:
    """A source that exists: what it is, and how to read a split of it."""

    name: str
    format: str
    splits: tuple[str, ...] | None
    """None for a file, which has no splits of its own."""
    load: Callable[[str], Table]
    """From the name of a split (files ignore it)."""

    @property
    def held_out(self) -> str | None:
        """The split made for judging, when the source comes with one."""
        return next((name for name in _HELD_OUT_SPLITS if name in (self.splits or ())), None)


def open_source(source: str) -> OpenSource:
    """Find out what `source` is. Raises DataError when it is nothing that can be read."""
    if source.startswith(BUILTIN_PREFIX):
        return _open_builtin(source)
    if os.path.isdir(source):
        inside = [name for name in sorted(os.listdir(source)) if name.lower().endswith(FILE_SUFFIXES)]
        hint = f"Name a file in it: {', '.join(inside[:8])}." if inside else f"Name a {_listed(FILE_SUFFIXES)} file."
        raise DataError(f"is a folder. {hint}", source=source)
    if os.path.exists(source):
        return _open_file(source)
    if _looks_like_a_file(source):
        raise DataError(f"no such file. {_nearest_files(source)}", source=source)
    return _open_hub(source)


def _open_file(source: str) -> OpenSource:
    suffix = Path(source).suffix.lower()
    if suffix not in FILE_SUFFIXES:
        raise DataError(
            f"unknown file type {suffix or '(no suffix)'}. Valid: {', '.join(FILE_SUFFIXES)}. Convert or rename it.",
            source=source,
        )
    readers: dict[str, Callable[[str], Table]] = {
        ".csv": _read_csv,
        ".json": _read_json,
        ".jsonl": _read_jsonl,
        ".parquet": _read_parquet,
    }
    return OpenSource(source, suffix[1:], None, lambda _: readers[suffix](source))


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _looks_like_a_file(source: str) -> bool:
    # `org/data-v1.5` is a hub id, so a suffix starts with a letter; hub ids have one slash and none in front.
    suffix = re.search(r"\.[A-Za-z]\w*$", source)
    return (
        source.lower().endswith(FILE_SUFFIXES)
        or source.startswith((".", "/", "~"))
        or source.count("/") > 1
        or ("/" in source and suffix is not None)
    )


def _nearest_files(source: str) -> str:
    path = Path(source)
    try:
        names = sorted(os.listdir(path.parent))
    except OSError:
        return f"There is no folder {path.parent} either; check the path."
    readable = [name for name in names if name.lower().endswith(FILE_SUFFIXES)]
    near = get_close_matches(path.name, names, n=3) or readable[:5]
    if not near:
        return f"{path.parent} holds no {_listed(FILE_SUFFIXES)} file; check the path."
    return f"Nearest in {path.parent}: {', '.join(near)}."


def _read_bytes(source: str) -> bytes:
    try:
        content = Path(source).read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error}).", source=source) from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError("is UTF-16. Save it as UTF-8.", source=source)
    return content.removeprefix(b"\xef\xbb\xbf")


def _parse_json(content: bytes) -> Any:
    """JSON, or a ValueError that says what is wrong in one line."""
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte 0x{content[error.start]:02x} at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} " if error.lineno > 1 else ""
        raise ValueError(f"broken JSON: {error.msg} at {place}column {error.colno}") from None
    except RecursionError:
        raise ValueError("broken JSON: nested too deeply") from None


def _object(value: Any) -> dict[str, Any] | Broken:
    if isinstance(value, dict):
        return value
    return Broken(f"a row must be a JSON object with named fields, not {type(value).__name__}")


def _read_jsonl(source: str) -> Table:
    records: list[Record] = []
    # Only \n ends a line: str.splitlines would also cut at U+2028 and others that JSON strings may hold.
    for number, line in enumerate(_read_bytes(source).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = _object(_parse_json(line))
        except ValueError as error:
            record = Broken(str(error))
        records.append((number, record))
    return Table(records, "line")


def _read_json(source: str) -> Table:
    content = _read_bytes(source)
    if not content.strip():
        return Table([], "row")
    try:
        value = _parse_json(content)
    except ValueError as error:
        hint = " If every line is an object of its own, name the file .jsonl." if "Extra data" in str(error) else ""
        raise DataError(f"{error}.{hint}", source=source) from None
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise DataError('must hold a list of objects, or {"data": [...]}.', source=source)
    return Table([(number, _object(row)) for number, row in enumerate(rows, start=1)], "row")


def _read_csv(source: str) -> Table:
    # Bytes that are not UTF-8 become surrogates, which make the field that holds them bad, not the whole file.
    text = _read_bytes(source).decode("utf-8", errors="surrogateescape")
    previous_limit = csv.field_size_limit(max(len(text), 1))
    try:
        lines = list(_csv_lines(text))
    finally:
        csv.field_size_limit(previous_limit)
    if not lines:
        return Table([], "line")
    line, header = lines[0]
    if isinstance(header, Broken):
        raise DataError(f"the header: {header.reason}.", source=source, line=line)
    names = [name or f"column {rank}" for rank, name in enumerate(header, start=1)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        twice = ", ".join(map(repr, repeated))
        raise DataError(f"the header names {twice} twice. Rename one.", source=source, line=line)
    return Table([(number, _csv_row(names, fields)) for number, fields in lines[1:]], "line")


def _csv_lines(text: str) -> Iterator[tuple[int, list[str] | Broken]]:
    # strict: an unclosed quote would otherwise swallow the rest of the file without a word.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield start, Broken(f"broken CSV: {error}")
        else:
            if fields:
                yield start, fields


def _csv_row(names: list[str], fields: list[str] | Broken) -> dict[str, Any] | Broken:
    if isinstance(fields, Broken):
        return fields
    if len(fields) != len(names):
        return Broken(f"{len(fields)} fields where the header has {len(names)}")
    return dict(zip(names, fields, strict=True))


def _read_parquet(source: str) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(source).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"not a readable Parquet file ({_first_line(error)}).", source=source) from None
    return Table(list(enumerate(rows, start=1)), "row")


def _open_builtin(source: str) -> OpenSource:
    from lowregret.data.bundled import load_builtin

    data = load_builtin(source)
    splits = {"train": data.train, "test": data.test}

    def load(split: str) -> Table:
        return Table(list(enumerate(_choose(source, splits, split), start=1)), "row")

    return OpenSource(source, "builtin", tuple(splits), load)


def _open_hub(source: str) -> OpenSource:
    if not _HUB_ID.fullmatch(source):
        raise DataError(f"neither an existing file nor a dataset id. Give {_valid_sources()}.", source=source)
    import datasets

    name, _, config = source.partition(":")
    try:
        splits = datasets.load_dataset(name, config or None)
    # The library lets errors of every layer under it through: HTTP, file system, Arrow, its own.
    except Exception as error:
        near = f"{_nearest_files(source)} " if re.search(r"\.[A-Za-z]\w*$", source) else ""
        raise DataError(
            f"neither an existing file nor a dataset in the local cache, and the hub gave none ({_first_line(error)}). "
            f"{near}Give {_valid_sources()}; a hub dataset must be in the cache or within reach, and may need "
            "a config.",
            source=source,
        ) from None

    def load(split: str) -> Table:
        return Table(list(enumerate(_choose(source, splits, split), start=1)), "row")

    return OpenSource(source, "hub dataset", tuple(map(str, splits)), load)


def _choose(source: str, splits: Any, split: str) -> Any:
    if split not in splits:
        raise DataError(f"has no split {split!r}. Valid: {', '.join(map(str, splits))}.", source=source)
    return splits[split]


def _valid_sources() -> str:
    return f"a {_listed(FILE_SUFFIXES)} file, {BUILTIN_PREFIX}NAME, or a hub dataset as ORG/NAME or ORG/NAME:CONFIG"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
