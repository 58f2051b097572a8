"""A folder belongs to one process; one that was made for nothing goes again."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from lowregret.errors import DataError, FolderLockedError, RecordsError
from lowregret.runs import lock
from lowregret.runs.atomic import write_json
from lowregret.runs.files import LOCK
from lowregret.runs.holder import SILENT_SECONDS, Holder, holder_of, silent_seconds
from lowregret.runs.lock import is_locked, lock_run


def fail(folder: Path, *, write: str = "") -> None:
    """A run that ends in an error, before or after it has written something."""

    def run() -> None:
        with lock_run(folder) as made:
            assert (made / LOCK).is_file()
            if write:
                (made / write).write_text("{}")
            raise DataError("no such file")

    with pytest.raises(DataError, match="no such file"):
        run()


def test_a_folder_made_for_a_run_that_never_began_is_taken_away_with_its_parents(tmp_path: Path) -> None:
    fail(tmp_path / "runs" / "one")
    assert list(tmp_path.iterdir()) == []


def test_parents_that_others_use_stay(tmp_path: Path) -> None:
    (tmp_path / "runs" / "other").mkdir(parents=True)
    fail(tmp_path / "runs" / "one")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]


def test_what_was_written_or_was_there_before_stays(tmp_path: Path) -> None:
    fail(tmp_path / "begun", write="spec.json")
    assert sorted(path.name for path in (tmp_path / "begun").iterdir()) == [LOCK, "spec.json"]
    (tmp_path / "mine").mkdir()
    fail(tmp_path / "mine")
    assert (tmp_path / "mine").is_dir()


def test_a_run_that_ends_well_keeps_its_folder_and_a_second_process_is_kept_out(tmp_path: Path) -> None:
    with lock_run(tmp_path / "one"), pytest.raises(FolderLockedError), lock_run(tmp_path / "one"):
        pass
    assert (tmp_path / "one" / LOCK).is_file()


def test_who_only_looks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look has the lock for a moment, in which somebody begins."""
    with lock_run(tmp_path / "one"):
        pass
    looking = lock._locked(tmp_path / "one")
    begun = time.monotonic()
    waits: list[float] = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        os.close(looking)

    monkeypatch.setattr(lock.time, "sleep", pause)
    with lock_run(tmp_path / "one"):
        assert len(waits) == 1
    assert time.monotonic() - begun < 5


def elsewhere(folder: Path, silent: float, host: str = "far") -> None:
    """Leave a folder as one whose lock a machine holds that does not share it with this one."""
    folder.mkdir()
    holder = {"machine": host, "host": host, "pid": 7, "token": "t"}
    (folder / LOCK).write_text(json.dumps(holder))
    then = time.time() - silent
    os.utime(folder / LOCK, (then, then))


def test_a_machine_whose_lock_does_not_reach_this_one_keeps_it_out_while_it_lives(tmp_path: Path) -> None:
    elsewhere(tmp_path / "alive", silent=3.0)
    with (
        pytest.raises(FolderLockedError, match=r"process 7 on far is writing here.*try again in 5\d s"),
        lock_run(tmp_path / "alive"),
    ):
        pass
    assert is_locked(tmp_path / "alive")
    elsewhere(tmp_path / "gone", silent=SILENT_SECONDS + 1)
    with lock_run(tmp_path / "gone"):
        found = holder_of(tmp_path / "gone")
        assert found is not None
        assert found.pid == os.getpid()
    assert holder_of(tmp_path / "gone") is None, "whoever ends well says so"


def test_what_a_killed_process_of_this_machine_left_keeps_nobody_out(tmp_path: Path) -> None:
    elsewhere(tmp_path / "killed", silent=0.0, host=Holder.here().machine)
    with lock_run(tmp_path / "killed"):
        pass


def test_a_holder_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowregret.runs.holder.BEAT_SECONDS", 0.05)
    with lock_run(tmp_path / "one"):
        os.utime(tmp_path / "one" / LOCK, (0, 0))
        end = time.monotonic() + 10
        while silent_seconds(tmp_path / "one") > 5 and time.monotonic() < end:
            time.sleep(0.02)
        assert silent_seconds(tmp_path / "one") < 5
    assert list((tmp_path / "one").iterdir()) == [tmp_path / "one" / LOCK]


@pytest.mark.parametrize(
    "content", ['{"pid": -1}', '{"machine": 1, "host": [], "pid": "x", "token": null}', "[" * 9999]
)
def test_a_lock_that_says_nonsense_names_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK).write_text(content)
    assert holder_of(tmp_path) is None


def test_a_pipe_in_the_place_of_a_lock_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCK)
    assert holder_of(tmp_path) is None


def test_a_lock_of_the_future_was_copied_and_keeps_nobody_out(tmp_path: Path) -> None:
    elsewhere(tmp_path / "one", silent=-1e9)
    with lock_run(tmp_path / "one"):
        pass


def test_who_was_silent_and_is_taken_over_writes_no_more_and_leaves_the_other_its_lock(tmp_path: Path) -> None:
    """A machine that slept, whose locks do not reach the other's."""
    folder = tmp_path / "one"
    other = {"machine": "far", "host": "far", "pid": 7, "token": "another"}

    def run() -> None:
        with lock_run(folder):
            write_json(folder / "before.json", 1)
            (folder / LOCK).write_text(json.dumps(other))
            write_json(folder / "after.json", 2)

    with pytest.raises(RecordsError, match="removed or replaced, or taken over"):
        run()
    assert (folder / "before.json").exists()
    assert not (folder / "after.json").exists()
    assert json.loads((folder / LOCK).read_text()) == other
