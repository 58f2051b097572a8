"""A source at a glance says what training would do with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lowregret.data.example import Example
from lowregret.data.look import near_duplicates, overview
from lowregret.data.overview import Overview
from lowregret.data.prepare import prepare
from lowregret.data.readers.base import Places
from lowregret.errors import DataError
from lowregret.report.pages.data import page
from lowregret.spec.data import DataSpec

PLACES = (Places("a.jsonl", "line"), Places("b.jsonl", "line"))


def rows(path: Path, *contents: tuple[str, str]) -> str:
    path.write_text("".join(json.dumps({"prompt": asked, "completion": said}) + "\n" for asked, said in contents))
    return str(path)


@pytest.fixture
def found(tmp_path: Path, chatml: Any) -> Overview:
    answers = [("what is the weather like today", f"it is quite cold, about {rank} degrees") for rank in range(12)]
    source = rows(tmp_path / "train.jsonl", *answers, answers[3])
    with open(source, "a") as file:
        file.write("{broken\n")
    held_out = rows(tmp_path / "test.jsonl", ("what is the weather like today", "it is quite cold, about 99 degrees"))
    return overview(DataSpec(train=source, eval=held_out), chatml, row="5")


def test_the_row_is_all_of_its_text_with_what_the_loss_counts(found: Overview) -> None:
    assert found.shown.row == "line 5"
    assert found.shown.stretches == (
        ("<|im_start|>user\nwhat is the weather like today<|im_end|>\n<|im_start|>assistant\n", False),
        ("it is quite cold, about 4 degrees<|im_end|>", True),
        ("\n", False),
    )


def test_the_numbers_are_those_of_preparing(found: Overview, tmp_path: Path, chatml: Any) -> None:
    spec = DataSpec(train=str(tmp_path / "train.jsonl"), eval=str(tmp_path / "test.jsonl"), skip_bad_rows=True)
    data = prepare(spec, chatml)
    assert found.train.examples == len(data.train) == 13
    assert found.train.tokens == sum(len(example.token_ids) for example in data.train)
    assert found.train.supervised_tokens == sum(example.supervised_tokens for example in data.train)
    assert found.train.longest == max(len(example.token_ids) for example in data.train)
    assert found.train.repeats == 1
    assert sum(bar.count for bar in found.train.histogram) == 13
    assert all(bar.low <= found.train.median <= bar.high for bar in found.train.histogram)
    assert found.held_out is not None
    assert found.held_out.examples == 1
    assert (found.turns, found.languages) == (2.0, (("en", 1.0),))
    assert any("bad rows skipped: 1" in line for line in found.lines)


def test_near_duplicates_across_the_split_are_named(found: Overview) -> None:
    assert sorted(int(near.train_row.removeprefix("line ")) for near in found.near) == [*range(1, 14)]
    assert all(near.held_out_row == "line 1" and 0.7 <= near.alike < 1 for near in found.near)


def test_near_duplicates_are_those_with_most_runs_of_three_tokens_in_common() -> None:
    def example(*ids: int) -> Example:
        return Example(ids, (False,) * len(ids))

    same = tuple(range(100, 140))
    changed = (*same[:20], 999, *same[21:])  # 38 runs each, of which 35 are the other's
    train = [example(*range(40)), example(*changed), example(1, 2)]
    (near,) = near_duplicates(train, [example(*range(200, 240)), example(*same)], PLACES)
    assert (near.train_row, near.held_out_row) == ("line 2", "line 2")
    assert near.alike == pytest.approx(35 / 41)
    assert near_duplicates(train, [], PLACES) == []


def test_what_all_held_out_examples_share_makes_no_near_duplicates() -> None:
    def example(rank: int) -> Example:
        ids = (*range(60), *range(1000 * rank, 1000 * rank + 6))
        return Example(ids, (False,) * len(ids))

    train, test = ([example(rank) for rank in ranks] for ranks in (range(1, 9), range(20, 60)))
    assert near_duplicates(train, test, PLACES) == []


def test_one_row_alone_is_shown_too(tmp_path: Path, chatml: Any) -> None:
    found = overview(DataSpec(train=rows(tmp_path / "a.jsonl", ("q", "a"))), chatml)
    assert (found.train.examples, found.held_out) == (1, None)


def test_nothing_usable_and_no_such_row_are_errors(tmp_path: Path, chatml: Any) -> None:
    (tmp_path / "bad.jsonl").write_text("{\n{\n")
    with pytest.raises(DataError, match="all 2 rows are bad"):
        overview(DataSpec(train=str(tmp_path / "bad.jsonl")), chatml)
    source = rows(tmp_path / "a.jsonl", ("q", "a"), ("r", "b"))
    with pytest.raises(DataError, match="--row 9: no such row"):
        overview(DataSpec(train=source), chatml, row="9")


def test_a_row_of_several_files_is_named_with_its_file(tmp_path: Path, chatml: Any) -> None:
    first, second = (rows(tmp_path / name, ("q", name), ("r", name)) for name in ("a.jsonl", "b.jsonl"))
    spec = DataSpec(train=f"{first},{second}", eval=rows(tmp_path / "c.jsonl", ("z", "z")))
    for asked in (f"{second}:2", "b.jsonl:2"):
        found = overview(spec, chatml, row=asked)
        assert found.shown.row == f"{second}:2"
        assert any("b.jsonl" in text for text, supervised in found.shown.stretches if supervised)
    for asked in ("2", "c.jsonl:9", "d.jsonl:1", "b.jsonl:x"):
        with pytest.raises(DataError, match="no such row"):
            overview(spec, chatml, row=asked)


def test_the_page_escapes_what_the_rows_say(tmp_path: Path, chatml: Any) -> None:
    found = overview(DataSpec(train=rows(tmp_path / "a.jsonl", ("<b>q", "<script>x"), ("q", "a"))), chatml, row="1")
    made = page(found, "<m>")
    assert "<mark>&lt;script&gt;x&lt;|im_end|&gt;</mark>" in made
    assert "<script>x" not in made
    assert "&lt;m&gt; sees it" in made
