"""Files are hashed once for as long as they look untouched."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from lowregret import digests


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOWREGRET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "LARGE", 1_000)
    return tmp_path / "cache" / "digests.json"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_large_files_are_read_once_and_small_ones_each_time(cache: Path, tmp_path: Path) -> None:
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(b"a" * 1_000)
    small.write_bytes(b"b")
    expected = [sha256(b"a" * 1_000), sha256(b"b")]
    assert digests.digest_files([large, small]) == expected
    known = json.loads(cache.read_text())
    assert list(known) == [str(large)]
    known[str(large)][1] = "0" * 64
    cache.write_text(json.dumps(known))
    assert digests.digest_files([large, small]) == ["0" * 64, expected[1]]
    digests.forget_digests()
    assert digests.digest_files([large, small]) == expected
    digests.forget_digests()
    digests.forget_digests()


@pytest.mark.parametrize("change", ["content", "same time", "same length elsewhere"])
def test_a_change_is_seen(tmp_path: Path, change: str) -> None:
    """Also one that leaves the length and puts the time back: the inode's own time tells."""
    file = tmp_path / "large"
    file.write_bytes(b"a" * 2_000)
    before = os.stat(file)
    digests.digest_files([file])
    if change == "same length elsewhere":
        (tmp_path / "other").write_bytes(b"c" * 2_000)
        os.utime(tmp_path / "other", ns=(before.st_atime_ns, before.st_mtime_ns))
        (tmp_path / "other").rename(file)
    else:
        file.write_bytes(b"c" * 2_000)
    if change == "same time":
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digests.digest_files([file]) == [sha256(b"c" * 2_000)]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"x": 1}', b'{"x": [1, 2]}', b'{"x": [[1], "short"]}', b"\xff"]
)
def test_a_damaged_memory_is_no_memory(cache: Path, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"a" * 2_000)
    cache.parent.mkdir()
    cache.write_bytes(content)
    assert digests.digest_files([file]) == [sha256(b"a" * 2_000)]


def test_without_a_place_to_remember_files_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    monkeypatch.setenv("LOWREGRET_CACHE", str(tmp_path / "file"))
    (tmp_path / "large").write_bytes(b"a" * 2_000)
    assert digests.digest_files([tmp_path / "large"]) == [sha256(b"a" * 2_000)]


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        digests.digest_files([tmp_path / "none"])


def test_the_memory_does_not_grow(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_REMEMBERED", 3)
    for number in range(5):
        (tmp_path / str(number)).write_bytes(b"a" * 2_000)
        digests.digest_files([tmp_path / str(number)])
    assert [Path(name).name for name in json.loads(cache.read_text())] == ["2", "3", "4"]
