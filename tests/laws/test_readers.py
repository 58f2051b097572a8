"""What every reader of the registry keeps: all rows, in order, as they were written; and it names the place of a fault.

A reader gets these laws by its entry in `READERS`: it must bring a way to make a source whose rows are known.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import importlib
import json
import lzma
import pkgutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowregret.data import readers
from lowregret.data.readers.base import Reader, SampleSource
from lowregret.data.readers.registry import FILE_SUFFIXES, READERS, SOURCE_PREFIXES, find_reader, is_data, open_source
from lowregret.data.sources import read_rows
from lowregret.errors import DataError
from lowregret.spec import DataSpec

QUICK = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
every_reader = pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.format)
every_file_reader = pytest.mark.parametrize(
    "reader", [reader for reader in READERS if reader.suffixes], ids=lambda reader: reader.format
)
every_text_reader = pytest.mark.parametrize(
    "reader", [reader for reader in READERS if reader.is_text], ids=lambda reader: reader.format
)
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pyarrow.compress(content, codec="zstd", asbytes=True),
}

TEXT = st.text(max_size=12) | st.sampled_from(
    [
        "",
        " ",
        '"',
        "'",
        ",",
        "\n",
        "\r\n",
        "a\n\nb",
        '"a", "b"',
        "\\n",
        "\u2028",
        "\ufeff",
        "\0",
        "{}",
        "[1]",
        "null",
        "é😀",
    ]
)
SAID = TEXT.filter(str.strip)
NAME = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6)
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": TEXT}), min_size=1, max_size=3)
VALUES = st.sampled_from(
    [
        TEXT,
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.booleans(),
        MESSAGES,
    ]
)
Row = dict[str, Any]


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    """Rows of equal columns, each of one type."""
    columns = draw(st.dictionaries(NAME, VALUES, min_size=1, max_size=4))
    return draw(st.lists(st.fixed_dictionaries(columns), min_size=1, max_size=5))


@contextmanager
def made(reader: Reader, rows: Sequence[Mapping[str, Any]]) -> Iterator[SampleSource]:
    """A source of this format, of these rows if it can hold them."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        yield reader.sample(Path(folder), rows)


def as_read(reader: Reader, row: Row) -> Row:
    """A row as its format gives it back."""
    if not reader.text_only:
        return row
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}


@every_reader
@QUICK
@given(rows=tables())
def test_rows_read_are_the_rows_written_in_order_and_none_is_lost(reader: Reader, rows: list[Row]) -> None:
    with made(reader, rows) as sample:
        assert len(sample.rows) == len(rows)
        found = list(open_source(sample.source).load("train"))
    assert [row for _, row in found] == [as_read(reader, row) for row in sample.rows]
    assert [number for number, _ in found] == sample.numbers


@every_reader
@QUICK
@given(turns=st.lists(st.lists(st.tuples(TEXT, SAID), min_size=1, max_size=3), min_size=1, max_size=4))
def test_every_turn_of_a_chat_comes_through(reader: Reader, turns: list[list[tuple[str, str]]]) -> None:
    rows = []
    for chat in turns:
        messages = []
        for question, reply in chat:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
        rows.append({"messages": messages})
    with made(reader, rows) as sample:
        found, report = read_rows(sample.source)
    assert [list(row.messages or ()) for row in found] == [row["messages"] for row in sample.rows]
    assert [row.line for row in found] == sample.numbers
    assert (report.format, report.rows, report.bad_rows) == (reader.format, len(rows), ())


@every_reader
@QUICK
@given(
    rows=st.lists(st.fixed_dictionaries({"prompt": SAID, "completion": TEXT}), min_size=2, max_size=6).filter(
        lambda rows: any(row["completion"].strip() for row in rows)
    )
)
def test_a_bad_row_is_named_by_its_place_and_counted(reader: Reader, rows: list[Row]) -> None:
    with made(reader, rows) as sample:
        bad = [
            number
            for number, row in zip(sample.numbers, sample.rows, strict=True)
            if "completion" in row and not row["completion"].strip()
        ]
        found, report = read_rows(sample.source, skip_bad_rows=True)
        assert [number for number, _ in report.bad_rows] == bad
        assert [row.line for row in found] == [number for number in sample.numbers if number not in bad]
        assert report.numbering == reader.numbering
        if not bad:
            assert len(read_rows(sample.source)[0]) == len(rows)
            return
        with pytest.raises(DataError) as caught:
            read_rows(sample.source)
    name, numbering, number = report.places.locate(bad[0])
    assert numbering == reader.numbering
    assert name == sample.source or Path(name).is_relative_to(sample.source) or name in sample.source.split(",")
    place = f":{number}: " if reader.numbering == "line" else f": row {number}: "
    assert str(caught.value).startswith(f"{name}{place}field 'completion' is empty")
    assert caught.value.line == number


@every_reader
def test_a_sample_is_found_by_its_own_reader_and_a_source_that_is_not_there_is_named(reader: Reader) -> None:
    with made(reader, [{"text": "a"}, {"text": "b"}]) as sample:
        assert find_reader(sample.source) is reader
        assert is_data(sample.source) or reader.format in ("folder", "hub dataset")
        with pytest.raises(DataError) as caught:
            read_rows(sample.source + "x")
    assert str(caught.value).startswith(f"{sample.source}x: ")


@every_reader
def test_a_split_that_is_not_there_is_refused(reader: Reader) -> None:
    with made(reader, [{"text": "a"}, {"text": "b"}]) as sample:
        opened = open_source(sample.source)
        if opened.splits is None:
            assert list(opened.load("nope")) == list(opened.load("train"))
            assert opened.fingerprint("nope") == opened.fingerprint("train")
            return
        assert "train" in opened.splits
        with pytest.raises(DataError) as caught:
            list(opened.load("nope"))
        with pytest.raises(DataError, match="has no split"):
            opened.fingerprint("nope")
    said = f"{sample.source}: has no split 'nope'. Valid: {', '.join(opened.splits)}."
    assert str(caught.value).startswith(said)


@every_reader
def test_a_fingerprint_is_of_the_content(reader: Reader) -> None:
    """The same for the same rows wherever they lie, another one for other rows."""

    def fingerprint(*texts: str) -> str:
        with made(reader, [{"text": text} for text in texts]) as sample:
            return open_source(sample.source).fingerprint("train")

    first = fingerprint("a", "b")
    assert first != fingerprint("a", "b", "c")
    assert first == fingerprint("a", "b")


@every_text_reader
@QUICK
@given(rows=tables(), codec=st.sampled_from(["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le"]))
def test_text_may_be_compressed_and_in_any_unicode_whatever_its_suffix(
    reader: Reader, rows: list[Row], codec: str
) -> None:
    with made(reader, rows) as sample:
        text = Path(sample.source).read_bytes().decode()
        if codec[-3:] in ("-le", "-be") and (not text[:4].isascii() or "\0" in text):
            codec = codec[:-3]  # without a mark, only what begins with plain characters can be told
        for ending, compress in {"": bytes, **COMPRESSORS}.items():
            for suffix in reader.suffixes:
                path = Path(sample.source).with_name(f"again{suffix.upper()}{ending}")
                path.write_bytes(compress(text.encode(codec)))
                opened = open_source(str(path))
                assert [row for _, row in opened.load("")] == [as_read(reader, row) for row in sample.rows]
                unlike = f"read as UTF-{codec[4:6]}, not UTF-8"
                assert (unlike in opened.notes) == (codec != "utf-8-sig")


@every_text_reader
@pytest.mark.parametrize("ending", COMPRESSORS)
def test_a_compressed_file_that_is_cut_off_is_named(tmp_path: Path, reader: Reader, ending: str) -> None:
    rows = [{"text": hashlib.sha256(str(rank).encode()).hexdigest()} for rank in range(2000)]
    sample = reader.sample(tmp_path, rows)
    path = tmp_path / f"cut{reader.suffixes[0]}{ending}"
    path.write_bytes(COMPRESSORS[ending](Path(sample.source).read_bytes())[:-30])
    with pytest.raises(DataError, match="damaged or cut off") as caught:
        read_rows(str(path), skip_bad_rows=True)
    assert str(caught.value).startswith(str(path))


@every_reader
def test_rows_are_read_as_they_are_asked_for(reader: Reader) -> None:
    with made(reader, [{"text": "a"}, {"text": "b"}, {"text": "c"}]) as sample:
        loaded = open_source(sample.source).load("train")
        assert isinstance(loaded, Iterator)
        assert next(loaded) == (sample.numbers[0], sample.rows[0])


@every_file_reader
@pytest.mark.parametrize("content", [b"", b"text\n\xcf\xf0\xe8\xe2\xe5\xf2\n"], ids=["empty", "windows-1251"])
@pytest.mark.parametrize("skip", [False, True])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, reader: Reader, content: bytes, skip: bool) -> None:
    for suffix in reader.suffixes:
        source = tmp_path / f"a{suffix.upper()}"
        source.write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_rows(str(source), skip_bad_rows=skip)
        assert str(caught.value).startswith(str(source))


@every_file_reader
def test_a_folder_is_no_file_whatever_its_name(tmp_path: Path, reader: Reader) -> None:
    folder = tmp_path / f"folder{reader.suffixes[0]}"
    folder.mkdir()
    with pytest.raises(DataError, match="is a folder without data"):
        read_rows(str(folder))
    sample = reader.sample(folder, [{"text": "a"}])
    (found,), report = read_rows(str(folder))
    assert (found.text, report.format) == ("a", "folder")
    assert report.places.locate(found.line) == (sample.source, reader.numbering, sample.numbers[0])


def test_every_reader_of_the_folder_is_in_the_registry() -> None:
    names = [info.name for info in pkgutil.iter_modules(readers.__path__)]
    modules = [importlib.import_module(f"{readers.__name__}.{name}") for name in names]
    assert {id(module.READER) for module in modules if hasattr(module, "READER")} == {id(reader) for reader in READERS}


def test_each_source_has_one_reader() -> None:
    formats = [reader.format for reader in READERS]
    assert len(set(formats)) == len(formats)
    assert len(set(FILE_SUFFIXES)) == len(FILE_SUFFIXES)
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in FILE_SUFFIXES)
    assert not any(one != other and other.startswith(one) for one in SOURCE_PREFIXES for other in SOURCE_PREFIXES)
    for reader in READERS:
        ways = [bool(reader.suffixes), bool(reader.prefix), reader.claims is not None, reader.pattern is not None]
        assert sum(ways) == 1


def test_every_format_is_offered_where_a_source_is_asked_for() -> None:
    with pytest.raises(DataError) as caught:
        open_source("no such thing")
    help_text = DataSpec.model_fields["train"].description or ""
    for reader in READERS:
        assert reader.spelling in str(caught.value)
        for mark in (*reader.suffixes, reader.prefix):
            assert mark in help_text
