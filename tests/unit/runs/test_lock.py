"""A folder belongs to one process; one that was made for nothing goes again."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowregret.errors import DataError, FolderLockedError
from lowregret.runs.files import LOCK
from lowregret.runs.lock import lock_run


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
