"""A file that grows, read in parts: nothing twice, nothing torn, and from the start where it is another file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowregret.runs.tail import Tail


def append(path: Path, text: bytes) -> None:
    with path.open("ab") as file:
        file.write(text)


def test_lines_come_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    tail = Tail(path)
    assert tail.read().lines == ()
    append(path, b"one\ntw")
    assert tail.read().lines == (b"one",)
    assert tail.read().lines == ()
    append(path, b"o\nthree\n")
    assert tail.read().lines == (b"two", b"three")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.binary(max_size=40), max_size=12), most=st.integers(24, 60))
def test_read_in_any_parts_it_is_what_is_read_at_once(tmp_path: Path, parts: list[bytes], most: int) -> None:
    path = tmp_path / "parts"
    path.unlink(missing_ok=True)
    tail, found = Tail(path, most=most), []
    for part in parts:
        append(path, part)
        while True:
            fresh = tail.read()
            assert not fresh.again
            found += fresh.lines
            if not fresh.more:
                break
    whole = b"".join(parts).split(b"\n")[:-1]
    short = [line for line in whole if len(line) < most // 2]
    assert [line for line in found if len(line) < most // 2] == short, "only a line too long for a part may be missing"


@pytest.mark.parametrize("how", ["cut", "replaced", "rewritten"])
def test_another_file_is_read_from_its_start(tmp_path: Path, how: str) -> None:
    path = tmp_path / "x"
    append(path, b"one\ntwo\n")
    tail = Tail(path)
    tail.read()
    if how == "cut":
        path.write_bytes(b"1\n")
    elif how == "replaced":  # as `runs.atomic` does
        (tmp_path / "y").write_bytes(b"1\n2\n3\n4\n5\n")
        os.replace(tmp_path / "y", path)
    else:  # the same inode, longer, and of other content
        path.write_bytes(b"1\n2\n3\n4\n5\n")
    fresh = tail.read()
    assert fresh.again
    assert fresh.lines[0] == b"1"


def test_a_line_that_is_too_long_is_left_out_alone(tmp_path: Path) -> None:
    path = tmp_path / "x"
    append(path, b"a\n" + b"x" * 1000 + b"\nb\n")
    tail, found = Tail(path, most=64), []
    while True:
        fresh = tail.read()
        found += fresh.lines
        if not fresh.more:
            break
    assert found == [b"a", b"b"]


def test_zeros_of_a_power_cut_are_no_line(tmp_path: Path) -> None:
    path = tmp_path / "x"
    append(path, b"one\n" + b"\0" * 50)
    assert Tail(path).read().lines == (b"one",)


def test_a_link_a_pipe_and_a_folder_are_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"key\n")
    (tmp_path / "link").symlink_to(secret)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "."):
        assert Tail(tmp_path / name).read().lines == ()
