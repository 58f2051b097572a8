"""A folder or several files are one source: no file is left out or mixed in without a word, and a row's error names its
own file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from lowregret.data.prepare import prepare
from lowregret.data.readers.registry import is_data, open_source
from lowregret.data.scan import scan
from lowregret.data.sources import read_rows
from lowregret.errors import DataError
from lowregret.models.load import load_tokenizer, resolve
from lowregret.spec import DataSpec


def rows(*names: str) -> list[dict[str, Any]]:
    return [{"prompt": f"ask {name}", "completion": f"answer {name}"} for name in names]


def write(path: Path, found: Sequence[Mapping[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in found]), path)
    else:
        content = "".join(json.dumps(row) + "\n" for row in found).encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def asked(source: str | Path, split: str = "train") -> list[str]:
    """The last word of each prompt."""
    found, _ = read_rows(str(source), split=split)
    return [str((row.messages or ())[0]["content"]).split()[1] for row in found]


def test_a_saved_dataset_is_read_and_a_saved_dict_brings_its_test_split(tmp_path: Path) -> None:
    train, test = (datasets.Dataset.from_list(rows(*names)) for names in ("abcd", "xy"))
    train.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(train=train, test=test).save_to_disk(str(tmp_path / "two"))
    assert asked(tmp_path / "one") == [*"abcd"]
    assert open_source(str(tmp_path / "one")).splits is None
    assert asked(tmp_path / "two", "test") == [*"xy"]
    assert asked(tmp_path / "two" / "test") == [*"xy"]
    prepared = prepare(DataSpec(train=str(tmp_path / "two")), load_tokenizer(resolve("tiny")))
    assert (len(prepared.train), len(prepared.test)) == (4, 2)
    found = scan(str(tmp_path / "two"))
    assert (found.examples, found.held_out) == (4, 2)
    assert is_data(str(tmp_path / "two"))


def test_rows_that_were_chosen_before_they_were_saved_stay_chosen(tmp_path: Path) -> None:
    datasets.Dataset.from_list(rows(*"abcdef")).select([4, 1]).save_to_disk(str(tmp_path / "chosen"))
    assert asked(tmp_path / "chosen") == ["e", "b"]


@pytest.mark.parametrize("split", ["validation", "dev", "eval"])
def test_a_split_made_for_judging_judges_whatever_it_is_called(tmp_path: Path, split: str) -> None:
    data = {name: datasets.Dataset.from_list(rows("a")) for name in ("train", split)}
    datasets.DatasetDict(data).save_to_disk(str(tmp_path / "saved"))
    assert open_source(str(tmp_path / "saved")).held_out == split


def test_a_saved_dict_without_a_train_split_says_where_its_splits_are(tmp_path: Path) -> None:
    data = datasets.DatasetDict(train_sft=datasets.Dataset.from_list(rows("a")))
    data.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match=r"no split 'train'. Valid: train_sft\. Each is a folder .*saved/train_sft"):
        asked(tmp_path / "saved")
    assert asked(tmp_path / "saved" / "train_sft") == ["a"]


def test_a_saved_dataset_of_which_a_file_is_missing_is_named(tmp_path: Path) -> None:
    datasets.Dataset.from_list(rows(*"abcd")).save_to_disk(str(tmp_path / "saved"), num_shards=2)
    assert asked(tmp_path / "saved") == [*"abcd"]
    (tmp_path / "saved" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(DataError, match=r"saved: is a dataset that was saved to disk, but cannot be read"):
        asked(tmp_path / "saved")


@pytest.mark.parametrize(
    ("files", "train", "test"),
    [
        ({"train-00000-of-00002.parquet": "ab", "train-00001-of-00002.parquet": "c"}, "abc", None),
        ({"data/train-00000-of-00001.parquet": "ab", "data/test-00000-of-00001.parquet": "x"}, "ab", "x"),
        (
            {"data/train-00000-of-00001-0a1b2c.parquet": "ab", "data/dev-00000-of-00001-9f.parquet": "x"},
            "ab",
            "x",
        ),
        ({"b.jsonl": "b", "a.jsonl": "a", "sub/c.jsonl.gz": "c"}, "abc", None),
        ({"alpaca.jsonl": "ab", "test.jsonl": "x"}, "ab", "x"),
        ({"my_train.jsonl": "ab", "my_dev.jsonl": "x"}, "ab", "x"),
        ({"training/1.jsonl": "a", "training/2.jsonl": "b", "eval/1.jsonl": "x"}, "ab", "x"),
        ({"split=train/0.parquet": "a", "split=test/0.parquet": "x"}, "a", "x"),
        ({"latest.jsonl": "a", "contest.jsonl": "b", "devices.jsonl": "c"}, "bca", None),
    ],
)
def test_files_of_a_folder_are_sorted_into_splits_by_name(
    tmp_path: Path, files: dict[str, str], train: str, test: str | None
) -> None:
    for name, names in files.items():
        write(tmp_path / name, rows(*names))
    assert asked(tmp_path) == [*train]
    opened = open_source(str(tmp_path))
    assert (opened.held_out is not None) == (test is not None)
    if opened.held_out:
        assert asked(tmp_path, opened.held_out) == [*str(test)]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train.jsonl", "extra.jsonl"], r"train\.jsonl is for training by its name; the names of extra\.jsonl do not"),
        (["main/train.jsonl", "socratic/train.jsonl"], "folders main, socratic each hold a split 'train'"),
        (["a.jsonl", "b.parquet"], r"several kinds of files: a\.jsonl \(jsonl\), b\.parquet \(parquet\)"),
        (["a.jsonl", "a.jsonl.gz"], r"same file compressed and not: a\.jsonl, a\.jsonl\.gz"),
        (
            ["train-00000-of-00003.jsonl", "train-00002-of-00003.jsonl"],
            r"incomplete: train-00001-of-00003\.jsonl",
        ),
        (["train_test.jsonl"], r"train_test\.jsonl has the names of two splits, test and train"),
        (["config.json", "model.safetensors"], "is the folder of a model, not of data"),
        (["README.md"], "is a folder without data"),
        (["data/train_sft-00000-of-00001.jsonl"], r"has no split 'train'\. Valid: train_sft\. Name the files"),
    ],
)
def test_a_folder_of_which_it_is_not_clear_what_is_meant_is_refused(
    tmp_path: Path, files: list[str], message: str
) -> None:
    for name in files:
        write(tmp_path / name, rows("a"))
    with pytest.raises(DataError, match=message) as caught:
        read_rows(str(tmp_path), skip_bad_rows=True)
    assert str(caught.value).startswith(str(tmp_path))


def test_what_lies_beside_the_data_is_counted_and_hidden_files_and_descriptions_are_none(tmp_path: Path) -> None:
    for name in ("data/a.jsonl", "notes.docx", "images/1.png", ".cache/b.jsonl", "dataset_info.json", ".gitattributes"):
        write(tmp_path / name, rows("a"))
    found, report = read_rows(str(tmp_path))
    assert len(found) == 1
    assert report.notes == ("1 jsonl file: train 1", "2 other files in it are not read: images/1.png, notes.docx")


def test_folders_that_are_linked_are_read_once(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "a.jsonl", rows("a"))
    write(tmp_path / "data" / "b.jsonl", rows("b"))
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "itself").symlink_to(tmp_path / "data")
    assert sorted(asked(tmp_path / "data")) == ["a", "b"]


def test_a_pattern_or_a_list_is_one_source_and_a_row_keeps_its_own_file_and_line(tmp_path: Path) -> None:
    first = write(tmp_path / "b.jsonl", rows("b", "c"))
    second = write(tmp_path / "a.jsonl", [*rows("a"), {"prompt": "?"}])
    third = write(tmp_path / "sub" / "c.parquet", [{**row, "completion": ""} for row in rows("z")])
    with pytest.raises(DataError, match="field 'completion' is missing") as caught:
        read_rows(f"{first},{second}")
    assert str(caught.value).startswith(f"{second}:2: ")
    assert caught.value.line == 2
    found, report = read_rows(f"{first}, {second},{third}", skip_bad_rows=True)
    assert [report.places.full(row.line) for row in found] == [f"{first}:1", f"{first}:2", f"{second}:1"]
    assert [report.places.full(number) for number, _ in report.bad_rows] == [f"{second}:2", f"{third}, row 1"]
    (tmp_path / "a.jsonl").write_text(json.dumps(rows("a")[0]))
    assert asked(tmp_path / "*.jsonl") == [*"abc"]
    assert asked(f"{first},{second}") == [*"bca"]
    assert asked(f"{tmp_path}/[ab].jsonl") == asked(f"{tmp_path}/?.jsonl") == [*"abc"]
    facts = scan(f"{first},{second},{third}")
    assert (facts.examples + facts.held_out, facts.notes) == (3, ("3 files",))
    assert facts.problems == (f"{third}, row 1: field 'completion' is empty.",)


def test_a_pattern_that_finds_two_splits_does_not_train_on_the_test_split(tmp_path: Path) -> None:
    for name, names in {"train-0.jsonl": "a", "train-1.jsonl": "b", "test-0.jsonl": "x"}.items():
        write(tmp_path / "data" / name, rows(*names))
    assert asked(tmp_path / "data" / "*.jsonl") == asked(tmp_path / "**" / "*.jsonl") == [*"ab"]
    assert asked(tmp_path / "data" / "*.jsonl", "test") == ["x"]
    assert asked(tmp_path / "data" / "test*.jsonl") == ["x"]
    assert asked(f"{tmp_path}/data/train-0.jsonl,{tmp_path}/data/test-0.jsonl") == [*"ax"]


def test_names_with_commas_and_brackets_are_names_where_they_exist(tmp_path: Path) -> None:
    for name in ("a,b.jsonl", "rows[1].jsonl", "what?.jsonl"):
        assert asked(write(tmp_path / name, rows("a"))) == ["a"]


def test_a_file_without_a_byte_is_said(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", rows("a"))
    empty = write(tmp_path / "b.jsonl", [])
    assert read_rows(f"{source},{empty}")[1].notes == ("2 files", f"empty: {empty}")


def test_parts_that_a_list_leaves_out_are_said(tmp_path: Path) -> None:
    source = write(tmp_path / "train-00000-of-00002.jsonl", rows("a"))
    _, report = read_rows(f"{source[:-6]}*")
    assert any("train-00001-of-00002.jsonl would go with these" in note for note in report.notes)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{0}/*.csv", r"no file matches .*\*\.csv\. .* holds a\.jsonl"),
        ("{0}/nowhere/*.jsonl", "There is no folder .*nowhere"),
        ("{0}/*", "matches folders, too: .*sub"),
        ("{0}/sub/*", r"matches .*README\.md, no data"),
        ("{0}/a.jsonl,{0}/b.jsonl", r"no such file as .*b\.jsonl"),
        ("{0}/a.jsonl,", "an empty name between commas"),
        ("{0}/a.jsonl,{0}/sub", r"sub is a folder\. In a list name its files"),
        ("{0}/a.jsonl,{0}/*.jsonl", r"names .*a\.jsonl twice"),
        ("{0}/a.jsonl,{0}/sub/../a.jsonl", r"names .*a\.jsonl twice"),
        ("{0}/a.jsonl,{0}/sub/README.md", r"README\.md: unknown file type \.md"),
        ("{0}/a.jsonl,org/name", "no such file as org/name. A list is of files that are there"),
    ],
)
def test_a_list_or_pattern_that_names_no_data_is_refused(tmp_path: Path, source: str, message: str) -> None:
    write(tmp_path / "a.jsonl", rows("a"))
    write(tmp_path / "sub" / "README.md", rows("a"))
    with pytest.raises(DataError, match=message):
        read_rows(source.format(tmp_path))


def test_rows_kept_from_files_of_other_names_are_told_by_the_names_of_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache knows the content of files, not their names."""
    monkeypatch.setenv("LOWREGRET_CACHE", str(tmp_path / "cache"))
    tokenizer = load_tokenizer(resolve("tiny"))
    many = [*rows(*map(str, range(2500))), {"prompt": "?", "completion": ""}]
    reports = []
    for name in ("one", "other"):
        first, second = (write(tmp_path / name / part, many) for part in ("a.jsonl", "b.jsonl"))
        spec = DataSpec(train=f"{first},{second}", skip_bad_rows=True)
        reports.append(prepare(spec, tokenizer).report.splits[0])
        with pytest.raises(DataError, match="'completion' is empty") as caught:
            prepare(spec.model_copy(update={"skip_bad_rows": False}), tokenizer)
        assert str(caught.value).startswith(f"{first}:2501: ")
    assert ["read from" in report.kept for report in reports] == [False, True]
    assert [report.source.places.full(number) for report in reports for number, _ in report.source.bad_rows] == [
        str(tmp_path / name / f"{part}.jsonl:2501") for name in ("one", "other") for part in "ab"
    ]
