"""The formats of single files, found by the suffix. What is none of them is refused with the way to convert it."""

from __future__ import annotations

from pathlib import Path

from lowregret.data.readers import arrow, csv, json, jsonl, parquet, text
from lowregret.data.readers.base import OpenSource, Reader
from lowregret.data.readers.compression import COMPRESSIONS
from lowregret.errors import DataError

FILE_READERS: tuple[Reader, ...] = (
    csv.READER,
    json.READER,
    jsonl.READER,
    parquet.READER,
    arrow.READER,
    text.READER,
)
FILE_SUFFIXES = tuple(sorted(suffix for reader in FILE_READERS for suffix in reader.suffixes))
ENDINGS = (
    *FILE_SUFFIXES,
    *(
        suffix + more
        for reader in FILE_READERS
        if reader.is_text
        for suffix in reader.suffixes
        for more in COMPRESSIONS
    ),
)
"""How the names of files of data end, lower case: the suffixes, and those of text with a compression's."""

_SPREADSHEETS = "Save the sheet as CSV."
_FRAMES = "Load it and write Parquet: `frame.to_parquet('rows.parquet')`."
_REMEDIES = {
    ".xlsx": _SPREADSHEETS,
    ".xls": _SPREADSHEETS,
    ".ods": _SPREADSHEETS,
    ".feather": _FRAMES,
    ".pkl": _FRAMES,
    ".pickle": _FRAMES,
    ".h5": _FRAMES,
    ".orc": _FRAMES,
    ".avro": _FRAMES,
    ".zip": "Unpack it and name the files or the folder.",
    ".tar": "Unpack it and name the files or the folder.",
    ".tgz": "Unpack it and name the files or the folder.",
    ".7z": "Unpack it and name the files or the folder.",
    ".lz4": "Decompress it, or compress it by gzip or zstd.",
    ".br": "Decompress it, or compress it by gzip or zstd.",
    ".z": "Decompress it, or compress it by gzip or zstd.",
    ".yaml": "Write its rows as .jsonl, an object a line.",
    ".yml": "Write its rows as .jsonl, an object a line.",
    ".xml": "Write its rows as .jsonl, an object a line.",
    ".db": "Query its rows and write them as .jsonl or .csv.",
    ".sqlite": "Query its rows and write them as .jsonl or .csv.",
    ".md": 'Write its text as .jsonl, one {"text": …} a line.',
    ".pdf": 'Write its text as .jsonl, one {"text": …} a line.',
    ".docx": 'Write its text as .jsonl, one {"text": …} a line.',
    ".html": 'Write its text as .jsonl, one {"text": …} a line.',
}


def split_suffix(name: str) -> tuple[str, str]:
    """(suffix of the format, that of the compression or nothing), lower case."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes] or [""]
    if suffixes[-1] in COMPRESSIONS:
        return (suffixes[-2] if len(suffixes) > 1 else ""), suffixes[-1]
    return suffixes[-1], ""


def find_file_reader(source: str) -> Reader:
    """The reader of a file by its name. Raises DataError for another type."""
    suffix, compression = split_suffix(source)
    for reader in FILE_READERS:
        if suffix in reader.suffixes and (reader.is_text or not compression):
            return reader
    raise DataError(
        f"{_what(suffix, compression)}. Valid: {', '.join(FILE_SUFFIXES)}. {_remedy(suffix, compression)}",
        source=source,
    )


def _what(suffix: str, compression: str) -> str:
    if suffix in FILE_SUFFIXES:
        return f"unknown file type {suffix}{compression}: {suffix} is compressed within"
    return f"unknown file type {suffix}{compression}" if suffix or compression else "unknown file type (no suffix)"


def _remedy(suffix: str, compression: str) -> str:
    if compression and suffix not in _REMEDIES:
        return f"Decompress it, or name what it holds before {compression}: rows.jsonl{compression}."
    return _REMEDIES.get(suffix, "Convert or rename it.")


def open_file(path: str) -> OpenSource:
    """A file that exists. Raises DataError for one of an unknown type, or damaged."""
    return find_file_reader(path).open(path, lambda: "Give a file")
