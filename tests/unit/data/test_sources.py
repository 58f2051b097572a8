"""Rows are the same whatever holds them; what is broken names its file, line and field, and what to do."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowregret.data.readers.registry import FILE_SUFFIXES, open_source
from lowregret.data.sources import read_rows
from lowregret.errors import DataError

QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
NAMES = st.sampled_from(["messages", "role", "content", "text", "prompt", "completion"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)
ANYTHING = st.one_of(
    st.binary(max_size=60),
    st.text(st.sampled_from('text,"\n\r\0é{}'), max_size=40).map(str.encode),
    st.lists(JSON, max_size=3).map(lambda rows: "\n".join(map(json.dumps, rows)).encode()),
    JSON.map(lambda value: json.dumps(value).encode()),
)
GOOD = {"prompt": "q", "completion": "a"}
QA = ({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"})


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def jsonl(path: Path, *rows: Any) -> str:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


@QUICK
@given(st.lists(st.tuples(TEXT, st.integers(0, 2)), min_size=1, max_size=6), st.booleans(), st.booleans())
def test_jsonl_gives_back_every_text_and_its_physical_line(
    tmp_path: Path, rows: list[tuple[str, int]], bom: bool, windows: bool
) -> None:
    content, lines = "\ufeff" if bom else "", []
    for text, blank_lines in rows:
        content += "\n" * blank_lines
        lines.append(content.count("\n") + 1)
        content += json.dumps({"text": text}, ensure_ascii=False) + ("\r\n" if windows else "\n")
    found, report = read_rows(write(tmp_path / "a.jsonl", content))
    assert [(row.text, row.line) for row in found] == list(zip([text for text, _ in rows], lines, strict=True))
    assert (report.format, report.columns, report.rows, report.bad_rows) == ("jsonl", "text", len(rows), ())


@QUICK
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6))
def test_csv_gives_back_every_field_and_the_line_a_record_starts_on(
    tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(["question", "answer"])
    starts = []
    for row in rows:
        starts.append(len(re.findall("\r\n|\r|\n", stream.getvalue())) + 1)
        writer.writerow(row)
    found, _ = read_rows(write(tmp_path / "a.csv", stream.getvalue()))
    assert [tuple(turn["content"] for turn in row.messages or ()) for row in found] == rows
    assert [row.line for row in found] == starts


def test_a_csv_record_over_many_lines_counts_from_its_first(tmp_path: Path) -> None:
    source = write(tmp_path / "a.csv", 'text\n"a\nb"\n\n"c"\n""\n')
    with pytest.raises(DataError, match=r"a\.csv:6: field 'text' is empty"):
        read_rows(source)
    rows, _ = read_rows(source, skip_bad_rows=True)
    assert [row.line for row in rows] == [2, 5]


def test_a_json_file_may_hold_its_rows_under_data_and_a_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": f"a{i}\nb", "id": str(i)} for i in range(3)]
    for source in (
        write(tmp_path / "a.JSON", json.dumps(rows)),
        write(tmp_path / "b.json", json.dumps({"data": rows, "version": 1})),
    ):
        found, report = read_rows(source)
        assert [row.messages for row in found] == [
            ({"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}\nb"}) for i in range(3)
        ]
        assert (report.format, report.columns, report.unused_columns) == ("json", "question -> answer", ("id",))


@pytest.mark.parametrize(
    ("row", "columns", "contents"),
    [
        ({"messages": list(QA), "prompt": "x", "text": "y"}, "messages", "q|a"),
        ({"messages": json.dumps(QA)}, "messages", "q|a"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "conversations", "q|a"),
        ({"conversations": list(QA), "text": "y"}, "conversations", "q|a"),
        ({"prompt": "q", "completion": "a", "answer": "x", "question": "y"}, "prompt -> completion", "q|a"),
        ({"prompt": [QA[0]], "completion": [QA[1]]}, "prompt -> completion", "q|a"),
        ({"question": "q", "answer": "a", "text": "x"}, "question -> answer", "q|a"),
        ({"instruction": "q", "input": "", "output": "a", "text": "x"}, "instruction (+ input) -> output", "q|a"),
        ({"instruction": "q", "input": "i", "output": "a"}, "instruction (+ input) -> output", "q\n\ni|a"),
        ({"instruction": "q", "output": "a"}, "instruction (+ input) -> output", "q|a"),
    ],
)
def test_columns_are_detected_in_their_order(tmp_path: Path, row: Any, columns: str, contents: str) -> None:
    (found,), report = read_rows(jsonl(tmp_path / "a.jsonl", row))
    assert report.columns == columns
    assert found.messages is not None
    assert "|".join(turn["content"] for turn in found.messages) == contents
    assert [turn["role"] for turn in found.messages] == ["user", "assistant"]


def test_a_column_that_is_null_gives_way_to_one_that_is_filled(tmp_path: Path) -> None:
    rows, _ = read_rows(jsonl(tmp_path / "a.jsonl", {"messages": None, "text": "t"}))
    assert rows[0].text == "t"


def test_named_fields_win_over_detection_and_the_prompts_turns_are_marked(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", {"chat": [*QA, QA[0]], "best": "b", "text": "t"})
    (row,), report = read_rows(source, prompt_field="chat", completion_field="best")
    assert row.messages == (*QA, QA[0], {"role": "assistant", "content": "b"})
    assert row.prompt_turns == 3
    assert report.columns == "chat -> best"
    assert report.unused_columns == ("text",)
    with pytest.raises(DataError, match=r"no column 'bets', which --completion-field names. Did you mean 'best'\?"):
        read_rows(source, prompt_field="chat", completion_field="bets")
    with pytest.raises(DataError, match="go together"):
        read_rows(source, prompt_field="chat")


def test_keys_of_messages_that_are_not_used_are_reported(tmp_path: Path) -> None:
    row = {"messages": [{**QA[0], "name": "Ann", "weight": None, "mood": "glad"}, QA[1]], "id": 1}
    _, report = read_rows(jsonl(tmp_path / "a.jsonl", row))
    assert report.unused_columns == ("id", "messages[].mood")


def turns(**changes: Any) -> dict[str, Any]:
    return {"messages": [QA[0], {**QA[1], **changes}]}


@pytest.mark.parametrize(
    ("first", "broken", "message"),
    [
        (GOOD, '{"prompt": "q", ', "broken JSON: .* at column 17"),
        (GOOD, '["q", "a"]', "must be a JSON object with named fields, not list"),
        (GOOD, '{"prompt": "q"}', "field 'completion' is missing"),
        (GOOD, '{"prompt": "q", "completion": null}', "field 'completion' is missing"),
        (GOOD, '{"prompt": "q", "completion": " \\n"}', "field 'completion' is empty"),
        (GOOD, '{"prompt": true, "completion": "a"}', "field 'prompt': a boolean where text is needed"),
        (GOOD, '{"prompt": "q", "completion": "\\ud83d"}', r"field 'completion': half a pair, \\ud83d"),
        (
            {"prompt": "é", "completion": "a"},
            b'{"prompt": "q", "completion": "\xe9"}',
            "not UTF-8: byte 0xe9 at byte 32",
        ),
        (GOOD, '{"prompt": "q", "completion": []}', "field 'completion': an empty list"),
        (turns(), '{"messages": "hello"}', "field 'messages': text that is not a JSON list"),
        (turns(), '{"messages": [3]}', r"field 'messages\[0\]': a number where an object"),
        (turns(), json.dumps(turns(role=None)), r"field 'messages\[1\].role' is missing"),
        (turns(), json.dumps(turns(role="asistant")), r"unknown role 'asistant'. Did you mean 'assistant'\?"),
        (turns(), json.dumps(turns(content=None)), r"field 'messages\[1\].content' is missing"),
        (turns(), json.dumps(turns(content=["a"])), r"field 'messages\[1\].content': a list where text"),
        (turns(), json.dumps(turns(content=" ")), "field 'messages': no assistant turn with content"),
        (turns(), json.dumps(turns(role="user")), "field 'messages': no assistant turn with content"),
        ({"text": "t"}, '{"txt": "t"}', "field 'text' is missing"),
        (
            {"instruction": "q", "output": "a"},
            '{"instruction": "q", "output": "a", "input": [3]}',
            "field 'input': a list where text is needed",
        ),
    ],
)
def test_a_bad_row_names_file_line_field_and_remedy_or_is_skipped(
    tmp_path: Path, first: Any, broken: str | bytes, message: str
) -> None:
    bad = broken.encode() if isinstance(broken, str) else broken
    good = json.dumps(first, ensure_ascii=False).encode()
    source = write(tmp_path / "a.jsonl", b"\n".join([good, b"", bad, good]))
    with pytest.raises(DataError, match=rf"a\.jsonl:3: .*{message}.*--skip-bad-rows") as caught:
        read_rows(source)
    assert caught.value.line == 3
    rows, report = read_rows(source, skip_bad_rows=True)
    assert [row.line for row in rows] == [1, 4]
    assert [line for line, _ in report.bad_rows] == [3]


def test_bad_first_rows_do_not_decide_the_columns(tmp_path: Path) -> None:
    rows, report = read_rows(
        jsonl(tmp_path / "a.jsonl", {"x": 1}, {"prompt": "q", "completion": ""}, GOOD), skip_bad_rows=True
    )
    assert [row.line for row in rows] == [3]
    assert [line for line, _ in report.bad_rows] == [1, 2]


def test_when_all_rows_are_bad_skipping_them_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all 2 rows are bad; the first, line 1: broken JSON"):
        read_rows(write(tmp_path / "a.jsonl", "{\n{\n"), skip_bad_rows=True)


def test_unknown_columns_list_what_was_found_and_what_is_valid(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Found: query, reply\. Valid: messages; .*question\+answer.*--prompt-field"):
        read_rows(jsonl(tmp_path / "a.jsonl", {"query": "q", "reply": "a"}))


def test_rows_of_a_json_file_are_named_as_rows_not_lines(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json: row 2: field 'completion' is missing") as caught:
        read_rows(write(tmp_path / "a.json", json.dumps([GOOD, {"prompt": "q"}])))
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "is empty: no rows"),
        ("a.jsonl", "\ufeff\n \n", "is empty: no rows"),
        ("a.json", " ", "is empty: no rows"),
        ("a.json", "[]", "is empty: no rows"),
        ("a.json", '{"rows": []}', r'must hold a list of objects, or {"data"'),
        ("a.json", '[{"a": 1}]\n{"a": 2}', r"broken JSON: Extra data at line 2 column 1"),
        ("a.csv", "", "is empty: no rows"),
        ("a.csv", "text\n", "is empty: no rows"),
        ("a.csv", "text,text\na,b\n", r":1: the header names 'text' twice"),
        ("a.csv", "text,id\na,1\nb\n", r":3: 1 fields where the header has 2"),
        ("a.csv", 'text\na\n"b\nc\n', r":3: broken CSV: unexpected end"),
        (
            "a.csv",
            "text\né\n".encode() + b"\xe9\n",
            r":3: not UTF-8: byte 0xe9 at byte 1, though others of its rows are",
        ),
        ("a.csv", b"text\na\n\xcf\xf0\xe8\n", r":3: not UTF-8: byte 0xcf .*not Windows-1252.*iconv"),
        ("a.csv", b"t\xcf\xf0\xe8\na\n", r":1: the header: not UTF-8: byte 0xcf at byte 2"),
        ("a.jsonl", "{}".encode("utf-16")[:-1], "begins as UTF-16, but is none"),
        ("a.parquet", "not parquet", "not a readable Parquet file"),
        ("a.txt", "Once upon a time, it\nrained, and\nthen not, again, at all", "is text without rows"),
        ("a.toml", "x", rf"unknown file type \.toml\. Valid: {re.escape(', '.join(FILE_SUFFIXES))}"),
        ("data", "x", r"unknown file type \(no suffix\)"),
        ("a.xlsx", b"PK", r"unknown file type \.xlsx\. .*Save the sheet as CSV"),
        ("a.parquet.gz", b"\x1f\x8b", r"unknown file type \.parquet\.gz: .*Decompress it"),
        ("rows.gz", b"\x1f\x8b", r"unknown file type \.gz\. .*rows\.jsonl\.gz"),
        ("a.jsonl.zip", b"PK\3\4", r"unknown file type \.zip\. .*Unpack it"),
        ("a.jsonl", b"PK\3\4", "is a zip archive"),
        ("a.csv", b"PAR1", "holds Parquet. Name it .parquet"),
        ("a.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
        ("a.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"{name}.*{message}"):
        read_rows(write(tmp_path / name, content))


def test_a_field_longer_than_the_csv_modules_limit_is_read(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    (row,), _ = read_rows(write(tmp_path / "a.csv", "text\n" + "x" * (limit + 1) + "\n"))
    assert len(row.text or "") == limit + 1
    assert csv.field_size_limit() == limit


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", "")
    with pytest.raises(DataError, match=r"trian\.jsonl: no such file\. Nearest in .*: train\.jsonl"):
        read_rows(str(tmp_path / "trian.jsonl"))
    with pytest.raises(DataError, match=r"There is no folder .*nowhere"):
        read_rows(str(tmp_path / "nowhere" / "train.jsonl"))


@QUICK
@given(st.sampled_from(FILE_SUFFIXES), ANYTHING, st.booleans())
def test_any_bytes_give_rows_or_a_data_error(tmp_path: Path, suffix: str, content: bytes, skip: bool) -> None:
    source = write(tmp_path / f"a{suffix}", content)
    try:
        rows, report = read_rows(source, skip_bad_rows=skip)
    except DataError as error:
        said = str(error)
    else:
        said = source
        assert len(rows) == report.rows > 0
    assert said.startswith(source)


def hub(**splits: list[dict[str, Any]]) -> datasets.DatasetDict:
    return datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in splits.items()})


def test_a_hub_dataset_is_read_by_split_and_config(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def load(name: str, config: str | None) -> datasets.DatasetDict:
        asked.append((name, config))
        return hub(train=[GOOD], validation=[{"prompt": "v", "completion": "a"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows, report = read_rows("org/name-v1.5:main", split="validation")
    assert asked == [("org/name-v1.5", "main")]
    assert rows[0].messages == ({"role": "user", "content": "v"}, QA[1])
    assert (report.format, report.split) == ("hub dataset", "validation")
    assert open_source("org/name").held_out == "validation"
    with pytest.raises(DataError, match=r"no split 'test'\. Valid: train, validation"):
        read_rows("org/name", split="test")


def test_a_hub_dataset_out_of_reach_says_what_else_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, config: str | None) -> None:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"org/name: neither an existing file nor .* local cache.*no route to the hub"):
        read_rows("org/name")
    with pytest.raises(DataError, match="neither an existing file nor a dataset id"):
        read_rows("no such thing")


def test_builtin_data_has_its_two_splits() -> None:
    train, report = read_rows("builtin:arithmetic:size=4,test_size=2")
    test, _ = read_rows("builtin:arithmetic:size=4,test_size=2", split="test")
    assert (len(train), len(test), report.format, report.split) == (4, 2, "builtin", "train")
    with pytest.raises(DataError, match="Did you mean 'arithmetic'"):
        read_rows("builtin:arithmetics")
