"""A run folder's files: written whole or not at all, torn lines left out, damage named with its place."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterable
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
    lines = [metric.model_copy(update={"step": step}) for step, metric in enumerate(lines, start=1)]
    for metric in lines:
        curve.append_metric(path, metric)
    assert curve.read_metrics(path) == lines
    last = len(path.read_bytes().splitlines(keepends=True)[-1])
    torn = data.draw(st.integers(1, last))
    os.truncate(path, path.stat().st_size - torn)
    assert curve.read_metrics(path) == lines[:-1]
    assert curve.keep_metrics_until(path, len(lines) - 1 or -1) == lines[:-1]
    curve.append_metric(path, lines[-1])
    assert curve.read_metrics(path) == lines


def test_no_curve_yet_is_an_empty_one(tmp_path: Path) -> None:
    assert curve.read_metrics(tmp_path / "metrics.jsonl") == []
    assert curve.keep_metrics_until(tmp_path / "metrics.jsonl", -1) == []
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def write_steps(path: Path, steps: Iterable[int]) -> None:
    path.unlink(missing_ok=True)
    for step in steps:
        curve.append_metric(path, Metric(step=step, tokens=step, seconds=0.0))


@given(first=st.integers(0, 1), steps=st.integers(1, 9), until=st.integers(1, 9), tail=st.binary(max_size=9))
def test_resuming_drops_whatever_comes_after_the_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, first: int, steps: int, until: int, tail: bytes
) -> None:
    """Also what a power cut has left there; a curve that ends before the checkpoint is refused."""
    path = tmp_path_factory.getbasetemp() / "metrics.jsonl"
    write_steps(path, range(first, steps + 1))
    if steps < until:
        with pytest.raises(
            RecordsError, match=f"lacks the line of step {steps + 1}, and the checkpoint is of step {until}"
        ):
            curve.keep_metrics_until(path, until)
        return
    path.write_bytes(path.read_bytes() + tail + b"\n")
    assert [metric.step for metric in curve.keep_metrics_until(path, until)] == list(range(first, until + 1))
    assert [metric.step for metric in curve.read_metrics(path)] == list(range(first, until + 1))


@given(zeros=st.integers(1, 9), torn=st.integers(0, 40))
def test_zeros_at_the_end_are_no_lines(tmp_path_factory: pytest.TempPathFactory, zeros: int, torn: int) -> None:
    path = tmp_path_factory.getbasetemp() / "metrics.jsonl"
    write_steps(path, (1, 2, 3))
    whole = path.read_bytes()
    kept = len(whole.splitlines(keepends=True)[-1]) - 1 if torn else 0
    path.write_bytes(whole[: len(whole) - min(torn, kept)] + b"\0" * zeros)
    assert [metric.step for metric in curve.read_metrics(path)] == ([1, 2] if torn else [1, 2, 3])


@pytest.mark.parametrize("steps", [(1, 2, 2), (1, 2, 1), (0, 1, 0)])
def test_a_line_of_no_later_step_is_named(tmp_path: Path, steps: tuple[int, ...]) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(path, steps)
    with pytest.raises(RecordsError, match=rf"metrics\.jsonl:{len(steps)}: step {steps[-1]} after step"):
        curve.read_metrics(path)


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        ((), "lacks the line of step 1"),
        ((1, 2, 3), "lacks the line of step 4"),
        ((0, 2, 3, 4), "lacks the line of step 1"),
        ((1, 2, 4), "lacks the line of step 3"),
        ((1, 2, 3, 4, 5), "goes on to step 5"),
    ],
)
def test_a_trials_curve_has_all_its_steps(tmp_path: Path, steps: tuple[int, ...], wrong: str) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(path, range(5))
    assert len(curve.require_curve(path, 4)) == 5
    write_steps(path, steps)
    with pytest.raises(RecordsError, match=f"{wrong}, and the trial has taken 4"):
        curve.require_curve(path, 4)


DAMAGE = [b"\0\0\0", b"{", b"[]", b'{"step": null}', b'{"step": 1e999}', b"[" * 9999, b"\xff"]


@pytest.mark.parametrize("damage", DAMAGE, ids=[str(damage[:8]) for damage in DAMAGE])
def test_damaged_transcripts_stop_no_run(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "transcripts.jsonl"
    path.write_bytes(b'{"step": 1}\n' + damage + b'\n{"step": 2}\n{"step": 3}\n')
    curve.keep_lines_until(path, 2)
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize("damage", [b"\x00\x00", b'{"step": 1}', b'{"step": "x", "tokens": 1, "seconds": 1}', b"[]"])
def test_a_damaged_line_is_named_by_file_and_number(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    good = b'{"step": 1, "tokens": 1, "seconds": 1}\n'
    path.write_bytes(good + damage + b"\n" + good)
    with pytest.raises(RecordsError, match=r"metrics\.jsonl:2: damaged .*delete"):
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
