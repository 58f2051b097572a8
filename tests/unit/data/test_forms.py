"""JSON, tables and Arrow in the forms that people's files have: read right, said, and numbered as the file is."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowregret.data.readers.base import BrokenRow
from lowregret.data.readers.registry import open_source
from lowregret.data.sources import read_rows
from lowregret.errors import DataError

ROWS = [{"text": f"a{rank}", "of": {"more": [1, {"x": "}{"}]}} for rank in range(4)]


def load(path: Path, content: str | bytes) -> tuple[list[tuple[int, Any]], tuple[str, ...]]:
    """(number, row or the reason that it is broken), and what is said of the file."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    opened = open_source(str(path))
    found = [(number, row.reason if isinstance(row, BrokenRow) else row) for number, row in opened.load("train")]
    return found, opened.notes


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".txt"])
@pytest.mark.parametrize("indent", [1, 2, "\t"])
@pytest.mark.parametrize("between", ["\n", "\r\n", "\n\n", ",\n"])
def test_objects_over_several_lines_are_rows_numbered_by_their_first(
    tmp_path: Path, suffix: str, indent: int | str, between: str
) -> None:
    pretty = [json.dumps(row, indent=indent) for row in ROWS]
    content = between.join(pretty) + "\n"
    found, notes = load(tmp_path / f"a{suffix}", content)
    assert [row for _, row in found] == ROWS
    lines = content.splitlines()
    assert [number for number, _ in found] == [rank for rank, line in enumerate(lines, 1) if line == "{"]
    assert len(notes) == 1
    assert "one after another" in notes[0] or "over several lines" in notes[0]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".ndjson", ".txt"])
def test_a_list_is_read_under_any_suffix_of_json(tmp_path: Path, suffix: str, indent: int | None) -> None:
    found, notes = load(tmp_path / f"a{suffix}", json.dumps(ROWS, indent=indent) + "\n")
    assert found == list(enumerate(ROWS, 1))
    assert open_source(str(tmp_path / f"a{suffix}")).numbering == "row"
    assert notes == (() if suffix == ".json" else ("read as one list, not as JSON Lines",))


def test_json_lines_under_json_are_numbered_by_line(tmp_path: Path) -> None:
    found, notes = load(tmp_path / "a.json", '{"text": "a"}\n\n{"text": \n{"text": "c"}\n')
    assert [number for number, _ in found] == [1, 3, 4]
    assert "broken JSON" in found[1][1]
    assert notes == ("read as objects one after another, not as one list",)
    assert open_source(str(tmp_path / "a.json")).numbering == "line"


def test_a_single_object_under_json_may_hold_the_rows_and_is_no_row(tmp_path: Path) -> None:
    for indent in (None, 2):
        found, _ = load(tmp_path / "a.json", json.dumps({"data": ROWS}, indent=indent))
        assert [row for _, row in found] == ROWS
        with pytest.raises(DataError, match="must hold a list of objects"):
            load(tmp_path / "a.json", json.dumps({"text": {"0": "a", "1": "b"}}, indent=indent))


def test_two_objects_on_a_line_are_a_bad_row(tmp_path: Path) -> None:
    found, _ = load(tmp_path / "a.jsonl", '{"text": "a"} {"text": "b"}\n{"text": "c"}\n')
    assert found[0] == (1, "broken JSON: Extra data at column 15: begin each object on a line of its own")
    assert found[1:] == [(2, {"text": "c"})]


def test_a_line_of_a_list_of_rows_among_others_is_a_bad_row(tmp_path: Path) -> None:
    found, _ = load(tmp_path / "a.jsonl", '[{"text": "a"}]\n{"text": "b"}\n')
    assert found == [(1, "a row must be a JSON object with named fields, not list"), (2, {"text": "b"})]


@pytest.mark.parametrize(
    ("broken", "bad", "reason"),
    [
        ('{\n  "text": "b"', 1, "Expecting ',' delimiter"),
        ('{\n  "text": "b\n}', 1, "Invalid control character at line 5 column 13"),
        ('{\n  "text" "b"\n}', 1, "Expecting ':' delimiter at line 5 column 10"),
        ('{\n  "text": "b",\n}', 1, "broken JSON: .* line [56] column"),
        ('{\n  "messages": [\n    {"text": "b"}\n', 1, "Expecting ',' delimiter"),
        ('{"messages": [{"text": "b"},', 1, "Expecting"),
        ('{"messages": [{"text":', 1, "Expecting"),
        ("what?", 1, "Expecting value at column 1"),
        ("}\n}", 2, "Expecting value at column 1"),
    ],
)
def test_a_broken_object_over_several_lines_costs_no_other(tmp_path: Path, broken: str, bad: int, reason: str) -> None:
    good = json.dumps({"text": "a"}, indent=2)
    path = tmp_path / "a.jsonl"
    found, _ = load(path, f"{good}\n{broken}\n{good}\n")
    assert [row for _, row in found if isinstance(row, dict)] == [{"text": "a"}] * 2
    assert [number for number, row in found if isinstance(row, str)] == [*range(4, 4 + bad)]
    with pytest.raises(DataError, match=rf"a\.jsonl:4: .*{reason}"):
        read_rows(str(path))


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.dictionaries(
            st.text(max_size=3),
            st.recursive(
                st.none() | st.text(st.sampled_from('{}[]"\\\n,: a\u2028'), max_size=8) | st.integers(),
                lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
                max_leaves=5,
            ),
            min_size=1,
            max_size=3,
        ),
        min_size=2,
        max_size=4,
    ),
    indent=st.none() | st.integers(0, 3),
)
def test_objects_are_read_however_they_are_indented(tmp_path_factory: Any, rows: list[Any], indent: int | None) -> None:
    text = "\n".join(json.dumps(row, indent=indent, ensure_ascii=False) for row in rows)
    found, _ = load(tmp_path_factory.mktemp("a") / "a.jsonl", text)
    assert [row for _, row in found] == rows


SEPARATORS = {",": (), ";": ("semicolons",), "\t": ("tabs",), "|": ("vertical bars",)}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_the_separator_of_a_table_is_found_and_said(tmp_path: Path, suffix: str, separator: str, quoting: Any) -> None:
    rows = [
        {"prompt": "a; b, c | d", "completion": 'say "hi"\nthere'},
        {"prompt": "x,y", "completion": "p;q;r"},
        {"prompt": "plain", "completion": "tab\there"},
    ]
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, ["prompt", "completion"], delimiter=separator, quoting=quoting)
    writer.writeheader()
    writer.writerows(rows)
    found, notes = load(tmp_path / f"a{suffix}", stream.getvalue())
    assert found == [(2, rows[0]), (4, rows[1]), (5, rows[2])]
    usual = {".csv": ",", ".tsv": "\t"}.get(suffix)
    name = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}[separator]
    assert notes == (() if separator == usual else (f"fields separated by {name}",))


def test_excels_line_of_the_separator_is_no_header(tmp_path: Path) -> None:
    found, notes = load(tmp_path / "a.csv", "sep=;\r\ntext;of\r\na,b;c\r\n")
    assert (found, notes) == ([(3, {"text": "a,b", "of": "c"})], ("fields separated by semicolons",))


def test_excels_unicode_text_is_a_table(tmp_path: Path) -> None:
    found, notes = load(tmp_path / "a.txt", "text\tof\r\né\tü\r\n".encode("utf-16"))
    assert found == [(2, {"text": "é", "of": "ü"})]
    assert notes == ("read as UTF-16, not UTF-8", "fields separated by tabs")


@pytest.mark.parametrize("content", ["text\na;b\nc\n", "text\na\nb|c\n", "a;b\nplain\nwords\nonly\n"])
def test_one_column_stays_one_whatever_its_texts_hold(tmp_path: Path, content: str) -> None:
    found, notes = load(tmp_path / "a.csv", content)
    header, *texts = content.split("\n")[:-1]
    assert ([row for _, row in found], notes) == ([{header: text} for text in texts], ())


def test_a_bad_record_does_not_decide_the_separator(tmp_path: Path) -> None:
    found, notes = load(tmp_path / "a.csv", "prompt;completion\na;b\nc;d;e\nf,g;h\n")
    assert found == [
        (2, {"prompt": "a", "completion": "b"}),
        (3, "3 fields where the header has 2"),
        (4, {"prompt": "f,g", "completion": "h"}),
    ]
    assert notes == ("fields separated by semicolons",)


CALLS = [
    {"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]}]},
    {"messages": [{"role": "assistant", "tool_calls": [{"name": "g", "arguments": {"y": "s"}}], "content": "c"}]},
]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_call_does_not_get_the_arguments_of_other_calls(tmp_path: Path, suffix: str) -> None:
    """Arrow gives a struct the fields of all its rows, null where a row had none."""
    table = pyarrow.Table.from_pylist(CALLS)
    path = tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        with pyarrow.ipc.new_file(str(path), table.schema) as file:
            file.write_table(table)
    assert [row for _, row in open_source(str(path)).load("")] == CALLS
    datasets.Dataset.from_list(CALLS).save_to_disk(str(tmp_path / "saved"))
    assert [row for _, row in open_source(str(tmp_path / "saved")).load("")] == CALLS


def test_columns_of_json_are_decoded(tmp_path: Path) -> None:
    features = datasets.Features({"a": datasets.Json(), "b": datasets.List({"c": datasets.Json()})})
    rows = [{"a": {"x": 1}, "b": [{"c": {"q": None}}]}, {"a": [1], "b": [{"c": "s"}]}]
    dataset = datasets.Dataset.from_list(rows, features=features)
    dataset.to_parquet(str(tmp_path / "a.parquet"))
    dataset.save_to_disk(str(tmp_path / "saved"))
    for name in ("a.parquet", "saved"):
        assert [row for _, row in open_source(str(tmp_path / name)).load("")] == rows


def test_pictures_beside_the_text_are_not_decoded(tmp_path: Path) -> None:
    picture = {"bytes": b"no picture", "path": None}
    features = datasets.Features({"text": datasets.Value("string"), "image": datasets.Image()})
    datasets.Dataset.from_list([{"text": "a", "image": picture}], features=features).save_to_disk(str(tmp_path / "s"))
    found, _ = read_rows(str(tmp_path / "s"))
    assert [row.text for row in found] == ["a"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet", "a.arrow", "a.json"])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, name: str) -> None:
    """But for the batch of Arrow's formats. The .json holds an object a line."""
    rows = [{"text": f"{rank} " + "x" * 500} for rank in range(8000)]
    path = tmp_path / name
    if name == "a.parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=1000)
    elif name == "a.arrow":
        with pyarrow.ipc.new_stream(str(path), pyarrow.schema({"text": pyarrow.string()})) as stream:
            stream.write_table(pyarrow.Table.from_pylist(rows))
    elif name == "a.csv":
        path.write_text("text\n" + "".join(f"{row['text']}\n" for row in rows))
    else:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    opened = open_source(str(path))
    tracemalloc.start()
    try:
        count = sum(1 for _ in opened.load(""))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == len(rows)
    assert peak < 2_000_000 < 8000 * 500
