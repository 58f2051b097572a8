"""No held-out example is ever trained on, nothing vanishes uncounted, and the same spec gives the same sets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowregret.data.example import Example
from lowregret.data.prepare import PreparedData, prepare, prepare_held_out
from lowregret.errors import DataError
from lowregret.spec import DataSpec

QUICK = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROWS = st.lists(st.integers(0, 9), min_size=2, max_size=30)
"""Rows by name: equal numbers are duplicates."""


def file_of(path: Path, rows: list[int] | range) -> str:
    path.write_text("".join(json.dumps({"question": f"q{row}", "answer": f"a{row}"}) + "\n" for row in rows))
    return str(path)


def names(examples: tuple[Example, ...], tokenizer: Any) -> list[int]:
    """The numbers of the rows that examples were made from."""
    found = []
    for example in examples:
        text = tokenizer.decode(
            [t for t, counted in zip(example.token_ids, example.supervised, strict=True) if counted]
        )
        found.append(int(text.removeprefix("a").removesuffix("<|im_end|>")))
    return found


@QUICK
@given(ROWS, st.floats(0.01, 0.99), st.integers(0, 5))
def test_a_split_shares_nothing_loses_nothing_and_repeats(
    tmp_path: Path, chatml: Any, rows: list[int], fraction: float, seed: int
) -> None:
    spec = DataSpec(train=file_of(tmp_path / "a.jsonl", rows), eval_fraction=fraction, split_seed=seed)
    if len(set(rows)) == 1:
        with pytest.raises(DataError, match="more distinct rows"):
            prepare(spec, chatml)
        return
    try:
        data = prepare(spec, chatml)
    except DataError:  # all that is left to train on is a duplicate of something held out
        assert len(set(rows)) < len(rows)
        return
    train, test = names(data.train, chatml), names(data.test, chatml)
    assert not set(train) & set(test)
    removed = Counter(rows) - Counter(train) - Counter(test)
    assert sum(removed.values()) == data.report.removed_across_split
    assert set(removed) <= set(test)
    assert len(test) == min(max(round(len(rows) * fraction), 1), len(rows) - 1)
    assert prepare(spec, chatml) == data


@QUICK
@given(ROWS, ROWS, st.none() | st.integers(1, 8), st.none() | st.integers(1, 8))
def test_given_held_out_data_is_never_touched(
    tmp_path: Path, chatml: Any, train: list[int], test: list[int], max_train: int | None, max_eval: int | None
) -> None:
    sources = {"train": file_of(tmp_path / "a.jsonl", train), "eval": file_of(tmp_path / "b.jsonl", test)}
    kept = [row for row in train if row not in test]
    spec = DataSpec(**sources, max_train=max_train, max_eval=max_eval)
    if not kept:
        with pytest.raises(DataError, match="every training example is also a held-out example"):
            prepare(spec, chatml)
        return
    data = prepare(spec, chatml)
    assert names(data.train, chatml) == kept[:max_train]
    assert names(data.test, chatml) == test[:max_eval]
    assert data.report.removed_across_split == len(train) - len(kept)
    alone, _ = prepare_held_out(DataSpec(train=sources["eval"], max_eval=max_eval), chatml)
    assert alone == data.test


def limited(path: Path, tokenizer: Any, **limits: int) -> PreparedData:
    return prepare(DataSpec(train=file_of(path / "a.jsonl", range(60)), eval_fraction=0.5, **limits), tokenizer)


def test_a_limit_picks_from_the_shuffle_and_keeps_the_order_of_the_file(tmp_path: Path, chatml: Any) -> None:
    whole = limited(tmp_path, chatml)
    few, more = limited(tmp_path, chatml, max_train=5, max_eval=3), limited(tmp_path, chatml, max_train=10, max_eval=6)
    for side in ("train", "test"):
        small, middle, large = (names(getattr(data, side), chatml) for data in (few, more, whole))
        assert small == sorted(small)
        assert large == sorted(large)
        assert set(small) < set(middle) < set(large)
        assert small != large[: len(small)]
    assert (len(few.train), len(few.test)) == (5, 3)
    assert names(whole.test, chatml) != names(
        prepare(DataSpec(train=str(tmp_path / "a.jsonl"), eval_fraction=0.5, split_seed=1), chatml).test, chatml
    )


def test_training_on_the_held_out_file_is_an_error(tmp_path: Path, chatml: Any) -> None:
    source = file_of(tmp_path / "a.jsonl", range(4))
    with pytest.raises(DataError, match=r"both name the same data.*Leave --eval-data out"):
        prepare(DataSpec(train=source, eval=source), chatml)


@pytest.mark.parametrize("named", [None, "builtin:instructions:size=9,test_size=4"])
def test_builtin_data_is_judged_on_its_own_test_split(chatml: Any, named: str | None) -> None:
    source = "builtin:instructions:size=9,test_size=4"
    data = prepare(DataSpec(train=source, eval=named), chatml)
    assert (len(data.train), len(data.test), data.report.how_split) == (9, 4, None)
    assert prepare_held_out(DataSpec(train=source), chatml)[0] == data.test


def test_hub_data_is_judged_on_its_own_test_split_or_on_one_made(chatml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(6)]
    splits = {"train": datasets.Dataset.from_list(rows[:4]), "test": datasets.Dataset.from_list(rows[4:])}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: splits)
    data = prepare(DataSpec(train="org/name"), chatml)
    assert (names(data.train, chatml), names(data.test, chatml)) == ([0, 1, 2, 3], [4, 5])
    assert prepare_held_out(DataSpec(train="org/name"), chatml)[0] == data.test
    del splits["test"]
    data = prepare(DataSpec(train="org/name"), chatml)
    assert (len(data.train), len(data.test)) == (3, 1)
    assert data.report.how_split is not None


def uneven(path: Path, lengths: list[tuple[int, int]]) -> str:
    path.write_text("".join(json.dumps({"prompt": "q" * q, "completion": "a" * a}) + "\n" for q, a in lengths))
    return str(path)


@pytest.mark.parametrize("overlong", ["cut", "drop"])
def test_overlong_examples_are_counted_by_what_became_of_them(tmp_path: Path, chatml: Any, overlong: Any) -> None:
    source = uneven(tmp_path / "a.jsonl", [(1, 1), (1, 100), (100, 1), (2, 1)])
    _, report = prepare_held_out(DataSpec(train=source, max_length=50, overlong=overlong), chatml)
    (part,) = report.splits
    counts = (part.overlong_cut, part.overlong_emptied, part.overlong_dropped)
    assert counts == ((1, 1, 0) if overlong == "cut" else (0, 0, 2))
    assert part.used.examples == (3 if overlong == "cut" else 2)
    assert any("over-long (more than 50 tokens)" in line for line in report.lines())


@pytest.mark.parametrize("overlong", ["cut", "drop"])
def test_when_nothing_is_left_the_error_gives_the_numbers(tmp_path: Path, chatml: Any, overlong: Any) -> None:
    source = uneven(tmp_path / "a.jsonl", [(100, 1), (120, 1)])
    longest = prepare_held_out(DataSpec(train=source), chatml)[1].splits[0].longest
    with pytest.raises(DataError, match=rf"all 2 are over 50 tokens.*Raise --max-length to {longest}"):
        prepare_held_out(DataSpec(train=source, max_length=50, overlong=overlong), chatml)
    assert len(prepare_held_out(DataSpec(train=source, max_length=longest, overlong="drop"), chatml)[0]) == 2


def test_one_example_cannot_be_split(tmp_path: Path, chatml: Any) -> None:
    with pytest.raises(DataError, match=r"cannot be split.*--eval-data"):
        prepare(DataSpec(train=file_of(tmp_path / "a.jsonl", [1])), chatml)


def test_a_row_that_the_template_refuses_is_a_bad_row(tmp_path: Path, make_tokenizer: Any) -> None:
    picky = make_tokenizer(
        "{% for m in messages %}{% if m.content == 'q2' %}{{ raise_exception('not this') }}{% endif %}"
        "{{ '<|im_start|>' + m.content + '<|im_end|>' }}{% endfor %}"
    )
    source = file_of(tmp_path / "a.jsonl", range(4))
    with pytest.raises(DataError, match=r"a\.jsonl:3: the chat template refuses this row: not this.*--skip-bad-rows"):
        prepare_held_out(DataSpec(train=source), picky)
    examples, report = prepare_held_out(DataSpec(train=source, skip_bad_rows=True), picky)
    assert len(examples) == report.splits[0].source.rows == 3
    assert report.splits[0].source.bad_rows[0][0] == 3
    with pytest.raises(DataError, match="no row can be encoded"):
        prepare_held_out(DataSpec(train=file_of(tmp_path / "b.jsonl", [2, 2]), skip_bad_rows=True), picky)


def test_the_report_says_everything_that_was_decided(tmp_path: Path, chatml: Any) -> None:
    source = file_of(tmp_path / "a.jsonl", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] * 2)
    with open(source, "a") as file:
        file.write('{"question": "q", "answer": ""}\n{"question": "q", "answer": "b", "id": 3}\n')
    data = prepare(DataSpec(train=source, skip_bad_rows=True, max_train=5), chatml)
    said = "\n".join(data.report.lines())
    for expected in (
        "(jsonl), columns question -> answer",
        "columns not used: id",
        "the tokenizer's chat template",
        "bad rows skipped: 1\n    line 21: field 'answer' is empty.",
        "read: 21 examples",
        "split: 2 of 21 examples held out by seed 0",
        f"duplicates removed across the split: {data.report.removed_across_split} training",
        f"train uses: 5 examples, {sum(e.supervised_tokens for e in data.train)} supervised",
        f"held out uses: 2 examples, {sum(e.supervised_tokens for e in data.test)} supervised",
    ):
        assert expected in said


def test_preparing_data_does_not_import_torch() -> None:
    code = "import sys, lowregret.data.prepare; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("split", [True, False], ids=["a split", "rows of its own"])
def test_more_held_out_examples_hold_the_fewer_and_take_none_from_training(
    tmp_path: Path, chatml: Any, split: bool
) -> None:
    source = {"train": file_of(tmp_path / "a.jsonl", range(40))}
    if not split:
        source["eval"] = file_of(tmp_path / "b.jsonl", range(30, 50))
    every = prepare(DataSpec(**source, eval_fraction=0.5) if split else DataSpec(**source), chatml)
    assert every.held_out == len(every.test) == 20
    for count in (1, 4, 9, 20, 99):
        spec = DataSpec(**source, max_eval=count, **({"eval_fraction": 0.5} if split else {}))  # type: ignore[arg-type]
        fewer = prepare(spec, chatml)
        assert fewer.train == every.train
        assert fewer.held_out == 20
        assert fewer.test == tuple(every.test[position] for position in every.first(count))
        assert every.judged_by(count).test == fewer.test
        assert every.judged_by(count).first(min(count, 3)) == fewer.first(min(count, 3))


def test_a_key_of_messages_is_not_used_unless_the_template_reads_it(tmp_path: Path, make_tokenizer: Any) -> None:
    mood = {"role": "assistant", "content": "a", "mood": "glad", "phase": "end"}
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps({"messages": [{"role": "user", "content": "q"}, mood]}) + "\n", encoding="utf-8")
    tokenizer = make_tokenizer(
        "{% for m in messages %}{{ '<|im_start|>' + m.content + (m.mood or '') + '<|im_end|>' }}{% endfor %}"
    )
    _, report = prepare_held_out(DataSpec(train=str(source)), tokenizer)
    assert report.splits[0].source.unused_columns == ("messages[].phase",)
