"""Files and libraries of others: only files are opened, JSON has one reader, and everything raised gets a name."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from lowregret import limits
from lowregret.errors import DataError, ModelError, RecordsError, SpecError
from lowregret.foreign import TooMuch, boundary, bounded, open_file, read_json, read_text

REMEDY = "Fetch it again."


@pytest.mark.parametrize("what", ["a pipe", "a device", "a folder", "a socket"])
def test_what_is_no_file_is_refused_by_name_and_not_waited_for(what: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if what == "a pipe":
        os.mkfifo(path)
    elif what == "a device":
        path.symlink_to("/dev/zero")
    elif what == "a folder":
        path.mkdir()
    else:
        os.chdir(tmp_path)
        socket.socket(socket.AF_UNIX).bind("x")
    for read in (lambda: open_file(path, ModelError), lambda: read_json(path, ModelError, REMEDY)):
        with pytest.raises(ModelError, match=rf"x: is {what}, and a file is needed\. "):
            read()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"a": 1, "a": 2}', "the key 'a' stands twice"),
        (b'{"a": NaN}', "no number of JSON"),
        (b'{"a": -1e999}', "no number of JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b"9" * 6000, "digits"),
        (b"{", "line 1"),
        (b"\xff", "decode"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        (b"", "line 1"),
    ],
)
def test_what_is_no_json_is_refused_with_the_file_and_the_remedy(text: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text)
    with pytest.raises(RecordsError, match=rf"x\.json: damaged, or no JSON \(.*{words}.*\)\. {REMEDY}"):
        read_json(path, RecordsError, REMEDY)


def test_a_whole_pair_of_surrogates_is_text(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(rb'["\ud83d\ude00"]')
    assert read_json(path, RecordsError, REMEDY) == ["😀"]


def test_a_model_may_say_infinity(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"time_step_limit": [0.0, Infinity]}')
    assert read_json(path, ModelError, REMEDY, finite=False) == {"time_step_limit": [0.0, float("inf")]}


def test_a_file_that_is_too_large_is_not_read_and_a_variable_raises_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(list(range(100))))
    monkeypatch.setenv(limits.JSON_BYTES.variable, "10")
    with pytest.raises(DataError, match=r"at most 10 are read\. Set LOWREGRET_MAX_JSON_BYTES to more bytes"):
        read_json(path, DataError, REMEDY)
    monkeypatch.setenv(limits.JSON_BYTES.variable, "10000")
    assert len(read_json(path, DataError, REMEDY)) == 100
    monkeypatch.setenv(limits.JSON_BYTES.variable, "1e9")
    with pytest.raises(SpecError, match="LOWREGRET_MAX_JSON_BYTES is '1e9'"):
        read_json(path, DataError, REMEDY)


class Panic(BaseException):
    """As those of Rust, which are no Exception."""


@pytest.mark.parametrize("error", [TypeError("x is odd"), KeyError("x"), Panic("odd"), MemoryError(), RecursionError()])
def test_whatever_a_library_raises_gets_a_name(error: BaseException) -> None:
    words = r"^m: cannot be read \(.+\)\. Fetch it again\.$"
    with pytest.raises(ModelError, match=words) as told, boundary(ModelError, "m", "cannot be read", REMEDY):
        raise error
    assert told.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), DataError("named already")])
def test_what_has_a_name_and_an_interrupt_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as told, boundary(ModelError, "m", "cannot be read", REMEDY):
        raise error
    assert told.value is error


def test_a_program_that_never_ends_is_ended() -> None:
    before = signal.getsignal(signal.SIGALRM)
    began = time.monotonic()
    with pytest.raises(TooMuch, match=r"more than 0\.2 seconds"), bounded(0.2, 10**9):
        re.match(r"(([a-z])+.)+[A-Z]([a-z])+$", "a" * 60)
    assert time.monotonic() - began < 5
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux keeps the limit")
def test_and_one_that_takes_too_much_memory() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(MemoryError), bounded(5, 10**8):
        "x" * 10**9
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_every_limit_that_a_variable_raises_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "limits.md").read_text(encoding="utf-8")
    for name in dir(limits):
        limit = getattr(limits, name)
        if isinstance(limit, limits.Limit):
            assert f"{limit.default:,}" in page, name
            assert f"`{limit.variable}`" in page, name


def test_text_is_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(SpecError, match=r"x\.toml: is no UTF-8 text \(.* at byte 5\)"):
        read_text(path, SpecError, REMEDY)
