"""Data out of all proportion: refused by name, before the time and the memory are gone."""

from __future__ import annotations

import gzip
import json
import os
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from lowregret import limits
from lowregret.data.chat.compiled import apply_template
from lowregret.data.chat.forms import forms
from lowregret.data.readers.arrow_rows import _pieces
from lowregret.data.readers.registry import open_source
from lowregret.data.sources import read_rows
from lowregret.errors import DataError, ModelError


def repeated(count: int, text: str) -> pyarrow.Table:
    values = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * count, pyarrow.int32()), [text])
    return pyarrow.table({"text": values})


def test_a_parquet_file_of_millions_of_equal_rows_is_refused_by_its_footer(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(repeated(3_000_000, "x"), path)
    with pytest.raises(DataError, match=r"says that it has 3,000,000 rows, in [\d,]+ bytes"):
        next(open_source(str(path)).load("train"))


def test_a_table_that_repeats_one_long_value_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SMALL_BYTES", 100_000)
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(repeated(2_000, "x" * 100_000), path, compression="zstd")
    with pytest.raises(DataError, match="times its size"):
        list(open_source(str(path)).load("train"))


def test_a_value_that_a_table_holds_once_is_written_out_for_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowregret.data.readers.arrow_rows._TEXT_BYTES", 1000)
    (batch,) = repeated(10, "x" * 300).to_batches()
    assert [piece.num_rows for piece in _pieces(batch)] == [3, 3, 3, 1]
    assert [piece.num_rows for piece in _pieces(pyarrow.RecordBatch.from_pylist([{"text": "x" * 300}] * 10))] == [10]


def test_a_table_that_is_right_is_read_in_any_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.parquet"
    rows = [{"text": f"row {number}"} for number in range(50)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    monkeypatch.setattr("lowregret.data.readers.parquet._BATCH_BYTES", 1)
    assert [row for _, row in open_source(str(path)).load("train")] == rows


def test_a_compressed_bomb_is_ended_and_a_variable_lets_it_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SMALL_BYTES", 100_000)
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps({"text": "x" * 900}) + "\n").encode() * 3000))
    with pytest.raises(DataError, match=r"more than [\d,]+ bytes when it is decompressed.*LOWREGRET_MAX_EXPANSION"):
        list(open_source(str(path)).load("train"))
    monkeypatch.setenv("LOWREGRET_MAX_EXPANSION", "5000")
    assert len(list(open_source(str(path)).load("train"))) == 3000


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_a_row_that_no_base_could_learn_is_a_bad_row(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    text = "x" * (limits.ROW_CHARACTERS.value + 1)
    if name.endswith("csv"):
        path.write_text(f"text\ngood\n{text}\n")
    else:
        path.write_text("".join(json.dumps({"text": said}) + "\n" for said in ("good", text)))
    rows, report = read_rows(str(path), skip_bad_rows=True)
    assert [row.text for row in rows] == ["good"]
    assert len(report.bad_rows) == 1
    with pytest.raises(DataError, match=r"characters|field larger"):
        read_rows(str(path))


def test_a_line_that_never_ends_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "' + "x" * 13_000_000)
    with pytest.raises(DataError, match=r"rows\.jsonl:1: has more than 12,000,000 characters in one line"):
        list(open_source(str(path)).load("train"))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet", "rows.arrow", "rows.json"])
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: is a pipe, and a file is needed"):
        list(open_source(str(tmp_path / name)).load("train"))


LOOPS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{{ 9 ** (9 ** 9) }}",
    "{{ 'x' * 10 ** 10 }}",
    "{{ 'x'|center(10 ** 10) }}",
    "{% set n = namespace(l=[0]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}",
]


@pytest.mark.parametrize("template", LOOPS)
def test_a_template_that_never_ends_is_no_template(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RENDER_SECONDS", 0.3)
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"chat template (cannot be used|does not compile): .* Repair the template"):
        apply_template({}, template, [{"role": "user", "content": "x"}])
    assert time.monotonic() - began < 5


def test_a_template_that_writes_far_more_than_a_row_is_refused() -> None:
    with pytest.raises(DataError, match=r"makes 3,000,000 characters of this row"):
        apply_template({}, "{% for i in range(3000) %}{{ 'x' * 1000 }}{% endfor %}", [])


@pytest.mark.parametrize("levels", [600, 900])
@pytest.mark.parametrize("where", ["calls", "tools", "text"])
def test_lists_in_each_other_without_end_make_a_bad_row(where: str, levels: int, tmp_path: Path) -> None:
    """What writes JSON, compares it or takes its length calls itself, and has no more levels than Python has."""
    deep = "[" * levels + "]" * levels
    call = {"name": "f", "arguments": {}}
    calls, tools = json.dumps([call]), "[]"
    if where == "tools":
        tools = json.dumps([{"name": "f", "parameters": {}}]).replace("{}", deep)
    elif where == "calls":
        calls = calls.replace("{}", deep)
    else:
        calls = json.dumps(calls.replace("{}", deep))
    turns = f'[{{"role": "user", "content": "q"}}, {{"role": "assistant", "content": "a", "tool_calls": {calls}}}]'
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"messages": {turns}, "tools": {tools}}}\n')
    with pytest.raises(DataError, match=r"jsonl:1: field .* in each other more than 100 levels deep\. Fix"):
        read_rows(str(path))


def test_arguments_that_are_text_of_lists_without_end_stay_text() -> None:
    for levels in (900, 100_000):
        call = {"name": "f", "arguments": '{"x": ' + "[" * levels + "]" * levels + "}"}
        turns = ({"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [call]})
        assert all(form[1]["tool_calls"] == [call] for form in forms(turns))
