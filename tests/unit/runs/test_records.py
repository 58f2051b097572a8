"""A run folder's files: written whole or not at all, torn lines left out, damage named with its place."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.errors import RecordsError
from lowregret.runs import atomic
from lowregret.runs import metrics as curve
from lowregret.runs.records import Metric, TrialRecord
from lowregret.spec import LoRA, TrialSpec

finite = st.floats(allow_nan=False, allow_infinity=False)
metrics = st.builds(
    Metric,
    step=st.integers(0, 10**6),
    tokens=st.integers(0, 10**9),
    train_nll=st.one_of(st.none(), finite),
    test_nll=st.one_of(st.none(), finite),
    lr=st.one_of(st.none(), finite),
    grad_norm=st.one_of(st.none(), finite),
    seconds=finite,
)


def record(**fields: Any) -> TrialRecord:
    trial = TrialSpec(method=LoRA(rank=4), learning_rate=1e-3)
    known = {"id": trial.id, "method": "lora:4", "learning_rate": 1e-3, "seed": 0, "status": "finished", "spec": trial}
    return TrialRecord(**{**known, **fields})


@given(nll=finite, seconds=finite)
def test_a_record_keeps_every_bit(tmp_path_factory: pytest.TempPathFactory, nll: float, seconds: float) -> None:
    path = tmp_path_factory.getbasetemp() / "trial.json"
    written = record(test_nll=nll, seconds=seconds)
    atomic.write_json(path, written)
    assert atomic.read_record(TrialRecord, path) == written


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_becomes_null_everywhere(tmp_path: Path, value: float) -> None:
    path = tmp_path / "facts.json"
    atomic.write_json(path, {"a": value, "b": [1.0, {"c": value}], "d": (value,)})
    assert json.loads(path.read_text()) == {"a": None, "b": [1.0, {"c": None}], "d": [None]}


def refuse(number: int) -> Any:
    def call(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "spec.json"
    atomic.write_json(path, {"old": 1})
    monkeypatch.setattr(os, call, refuse(errno.ENOSPC))
    with pytest.raises(RecordsError, match="disk is full"):
        atomic.write_json(path, {"new": 2})
    monkeypatch.undo()
    assert json.loads(path.read_text()) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["spec.json"]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "disk is full. Free some space and run the same command again"),
        (errno.EDQUOT, "disk is full"),
        (errno.EFBIG, "disk is full"),
        (errno.EACCES, "no permission to write here. Choose another folder with --out"),
        (errno.EROFS, "no permission to write here"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_every_refusal_names_the_file_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    monkeypatch.setattr(os, "replace", refuse(number))
    with pytest.raises(RecordsError) as caught:
        atomic.write_json(tmp_path / "verdict.json", {})
    assert str(tmp_path / "verdict.json") in str(caught.value)
    assert remedy in str(caught.value)


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    for wanted in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(RecordsError, match="a file stands where a folder is needed"):
            atomic.make_folder(wanted)
    assert (tmp_path / "taken").read_text() == ""


@given(lines=st.lists(metrics, min_size=1, max_size=5), data=st.data())
def test_a_kill_while_appending_loses_the_torn_line_only(
    tmp_path_factory: pytest.TempPathFactory, lines: list[Metric], data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "metrics.jsonl"
    path.unlink(missing_ok=True)
    for metric in lines:
        curve.append_metric(path, metric)
    assert curve.read_metrics(path) == lines
    last = len(path.read_bytes().splitlines(keepends=True)[-1])
    torn = data.draw(st.integers(1, last))
    os.truncate(path, path.stat().st_size - torn)
    assert curve.read_metrics(path) == lines[:-1]
    curve.keep_metrics_until(path, lines[-1].step)
    curve.append_metric(path, lines[-1])
    kept = [metric for metric in lines[:-1] if metric.step <= lines[-1].step]
    assert curve.read_metrics(path) == [*kept, lines[-1]]


def test_no_curve_yet_is_an_empty_one(tmp_path: Path) -> None:
    assert curve.read_metrics(tmp_path / "metrics.jsonl") == []
    curve.keep_metrics_until(tmp_path / "metrics.jsonl", 3)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


@given(steps=st.lists(st.integers(0, 9), max_size=9), until=st.integers(0, 9))
def test_resuming_drops_exactly_the_steps_that_come_again(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], until: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "metrics.jsonl"
    path.unlink(missing_ok=True)
    for step in steps:
        curve.append_metric(path, Metric(step=step, tokens=0, seconds=0.0))
    curve.keep_metrics_until(path, until)
    assert [metric.step for metric in curve.read_metrics(path)] == [step for step in steps if step <= until]


@pytest.mark.parametrize("damage", [b"\x00\x00", b'{"step": 1}', b'{"step": "x", "tokens": 1, "seconds": 1}', b"[]"])
def test_a_damaged_line_is_named_by_file_and_number(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    good = b'{"step": 1, "tokens": 1, "seconds": 1}\n'
    path.write_bytes(good + damage + b"\n" + good)
    with pytest.raises(RecordsError, match=r"metrics\.jsonl:2: damaged .*Delete"):
        curve.read_metrics(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "damaged"),
        (b'{"id": "a"', "damaged"),
        (b"\xff\xfe\x00", "damaged"),
        (b"[]", "field"),
        (b"{}", "field 'id'"),
        (None, "cannot be read"),
    ],
)
def test_a_damaged_record_is_named_with_the_remedy(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "trial.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecordsError) as caught:
        atomic.read_record(TrialRecord, path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_a_wrong_field_of_a_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trial.json"
    atomic.write_json(path, {**record().model_dump(mode="json"), "status": "done"})
    with pytest.raises(RecordsError, match=r"trial\.json: field 'status': .*Delete the file"):
        atomic.read_record(TrialRecord, path)
