"""A run folder from somebody else: nothing outside of it is written, deleted or locked because of what it says."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from lowregret.errors import RecordsError
from lowregret.runs.atomic import (
    appending,
    make_folder,
    remove_file,
    remove_folder,
    replacing,
    replacing_folder,
    sync_file,
    write_bytes,
    write_json,
)
from lowregret.runs.boundary import refuse_links, within
from lowregret.runs.files import LOCK, TRIAL
from lowregret.runs.lock import lock_run
from lowregret.runs.records import TrialRecord
from lowregret.runs.study import read_trials, trial_folder
from lowregret.spec import FullFT, LoRA, TrialSpec

ELSEWHERE = ["../victim", "../../victim", "/tmp/victim", "a/b", "..", ".", "", ".hidden", "a\0b", "a\\..\\b", "a" * 201]


def record(**changed: object) -> TrialRecord:
    spec = TrialSpec(method=FullFT(), learning_rate=1e-3, seed=0)
    facts = {"id": spec.id, "method": "full", "learning_rate": 1e-3, "seed": 0, "status": "finished", "spec": spec}
    return TrialRecord.model_validate(facts | changed)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder beside the run with something to lose."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "keep.txt").write_text("precious")
    return folder


def unharmed(victim: Path) -> bool:
    return [path.name for path in victim.iterdir()] == ["keep.txt"] and (victim / "keep.txt").read_text() == "precious"


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_stored_name_that_is_no_plain_name_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordsError, match="is no name of a folder in it"):
        within(tmp_path, name)
    with pytest.raises(RecordsError):
        trial_folder(tmp_path, name)
    with pytest.raises(ValueError, match="id"):
        record(id=name)
    with pytest.raises(ValueError, match="pruned_by"):
        record(pruned_by=name)


def test_every_id_that_a_trial_gets_is_a_plain_name(tmp_path: Path) -> None:
    odd = ["lora:1", "lora:64:mlp+experts", "lora:2:re:.*\\.(q|v)_proj/../..$", "lora:3:dora", "lora:8:alpha=4.5"]
    for method in odd:
        trial = TrialSpec.model_validate({"method": method, "learning_rate": 3.1e-5, "seed": 12})
        assert isinstance(trial.method, LoRA)
        assert within(tmp_path, trial.id).parent == tmp_path


def test_a_record_whose_id_is_not_its_folders_name_is_refused_by_name(tmp_path: Path) -> None:
    home = tmp_path / "trials" / record().id
    home.mkdir(parents=True)
    write_json(home / TRIAL, record())
    assert read_trials(tmp_path) == [record()]
    write_json(home / TRIAL, record(id="another"))
    with pytest.raises(RecordsError, match=r"trial\.json: field 'id' is 'another'"):
        read_trials(tmp_path)


def test_a_link_that_leads_out_is_no_stored_name_either(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "trial").symlink_to(victim)
    with pytest.raises(RecordsError, match="leads out"):
        within(tmp_path / "run", "trial")


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["keep.txt", "new.txt"])
def test_a_link_at_the_lock_is_neither_truncated_nor_made(tmp_path: Path, victim: Path, target: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / LOCK).symlink_to(victim / target)
    with pytest.raises(RecordsError, match=r"\.lock: is a link"), lock_run(run):
        pass
    assert unharmed(victim)


@pytest.mark.parametrize("kind", ["pipe", "hard link", "folder"])
def test_a_lock_that_is_no_file_of_its_own_is_refused_at_once(tmp_path: Path, victim: Path, kind: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    make = {"pipe": os.mkfifo, "hard link": lambda path: os.link(victim / "keep.txt", path), "folder": os.mkdir}
    make[kind](run / LOCK)
    with pytest.raises(RecordsError, match=r"\.lock"), lock_run(run):
        pass
    assert unharmed(victim)


@pytest.mark.parametrize("name", ["trials", "trials/one", "best", "spec.json", "trials/one/metrics.jsonl", "mlflow.db"])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_link_in_the_folder_that_leads_out_ends_the_run_before_it_begins(
    tmp_path: Path, victim: Path, name: str, hidden: bool
) -> None:
    run = tmp_path / "run"
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    if hidden:  # a lock in between does not keep the links below it from being seen
        (run / name).parent.joinpath(LOCK).touch()
    (run / name).symlink_to(victim if "." not in name else victim / "keep.txt")
    with pytest.raises(RecordsError, match="leads out") as refused, lock_run(run):
        pass
    assert str(run / name) in str(refused.value)
    assert unharmed(victim)


def test_the_folder_itself_may_be_a_link_and_one_inside_may_lead_inside(tmp_path: Path) -> None:
    (tmp_path / "disk" / "real").mkdir(parents=True)
    (tmp_path / "disk" / "model").symlink_to("real")
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    with lock_run(tmp_path / "run") as run:
        write_bytes(run / "model" / "weights", b"1")
        write_bytes(run / "spec.json", b"{}")
    assert (tmp_path / "disk" / "real" / "weights").read_bytes() == b"1"


def test_a_link_that_comes_while_the_run_lasts_is_not_followed(tmp_path: Path, victim: Path) -> None:
    with lock_run(tmp_path / "run") as run:
        (run / "trials").symlink_to(victim)
        (run / "metrics.jsonl").symlink_to(victim / "keep.txt")
        for write in (
            lambda: write_bytes(run / "trials" / "keep.txt", b"x"),
            lambda: write_bytes(run / "trials" / "new.txt", b"x"),
            lambda: remove_file(run / "trials" / "keep.txt"),
            lambda: remove_folder(run / "trials" / "x"),
            lambda: make_folder(run / "trials" / "new"),
            lambda: sync_file(run / "trials" / "keep.txt"),
            lambda: write_bytes(run / ".." / "victim" / "keep.txt", b"x"),
            lambda: remove_folder(run / ".." / "victim"),
        ):
            with pytest.raises(RecordsError, match="leads out"):
                write()
        with pytest.raises(RecordsError, match="is a link"), appending(run / "metrics.jsonl"):
            pass
        with pytest.raises(RecordsError, match="is a link"):
            sync_file(run / "metrics.jsonl")
        remove_folder(run / "trials")
        write_bytes(run / "metrics.jsonl", b"x")  # replaces the link, not what it leads to
        assert not (run / "metrics.jsonl").is_symlink()
    assert unharmed(victim)


@pytest.mark.parametrize("name", ["spec.json.partial", "checkpoint.safetensors.partial"])
def test_a_link_at_the_name_of_a_partial_file_is_not_written_through(tmp_path: Path, victim: Path, name: str) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / name).symlink_to(victim / "keep.txt")
    write_bytes(folder / name.removesuffix(".partial"), b"mine")
    with replacing(folder / "other") as partial:
        assert partial.exists()
        assert partial.name != "other.partial"
        partial.write_bytes(b"mine")
    assert unharmed(victim)


def test_a_partial_file_is_made_by_nobody_else(tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even its random name, guessed, is not written through."""
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 16)
    (tmp_path / f"a.{'0' * 16}.partial").symlink_to(victim / "keep.txt")
    with pytest.raises(RecordsError):
        write_bytes(tmp_path / "a", b"mine")
    assert unharmed(victim)


@pytest.mark.parametrize("kind", ["hard link", "pipe"])
def test_nothing_is_appended_to_what_is_no_file_of_its_own(tmp_path: Path, victim: Path, kind: str) -> None:
    path = tmp_path / "metrics.jsonl"
    os.link(victim / "keep.txt", path) if kind == "hard link" else os.mkfifo(path)
    with pytest.raises(RecordsError, match=r"metrics\.jsonl"), appending(path):
        pass
    assert unharmed(victim)


# --- the lock ---------------------------------------------------------------------------------------------------------


def writes(run: Path) -> list[object]:
    return [
        lambda: write_bytes(run / "checkpoint.safetensors", b"x"),
        lambda: write_json(run / "trials" / "a" / TRIAL, {}),
        lambda: remove_file(run / "spec.json"),
        lambda: remove_folder(run / "trials"),
        lambda: make_folder(run / "best"),
    ]


@pytest.mark.parametrize("loss", ["removed", "replaced", "moved"])
def test_who_has_lost_its_lock_writes_nothing_more(tmp_path: Path, loss: str) -> None:
    with lock_run(tmp_path / "run") as run:
        make_folder(run / "trials" / "a")
        write_json(run / "spec.json", {})
        if loss == "moved":
            os.rename(run / LOCK, run / "old")
        else:
            (run / LOCK).unlink()
        if loss == "replaced":
            (run / LOCK).touch()
        before = sorted(run.rglob("*"))
        for write in writes(run):
            with pytest.raises(RecordsError, match="removed or replaced"):
                write()  # type: ignore[operator]
        with pytest.raises(RecordsError, match="removed or replaced"), appending(run / "metrics.jsonl"):
            pass
        with pytest.raises(RecordsError, match="removed or replaced"), replacing_folder(run / "best"):
            pass
        assert sorted(run.rglob("*")) == before


def test_a_group_stops_when_its_studys_lock_is_gone(tmp_path: Path) -> None:
    with lock_run(tmp_path / "study") as study, lock_run(study / "groups" / "one") as group:
        write_json(group / "spec.json", {})
        (study / LOCK).unlink()
        with pytest.raises(RecordsError, match=r"study/\.lock: was removed"):
            write_json(group / "spec.json", {})


def test_the_one_that_lost_its_lock_leaves_the_others_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = lock_run(run)
    first.__enter__()
    (run / LOCK).unlink()
    try:
        with lock_run(run):
            raise ValueError
    except ValueError:
        pass
    assert (run / LOCK).exists()  # the folder was there before the second one
    first.__exit__(ValueError, ValueError(), None)
    assert (run / LOCK).exists()  # and the lock is not the first one's to take away


# --- what kills leave -------------------------------------------------------------------------------------------------


def test_what_killed_writes_have_left_goes_with_the_next_start_but_not_what_another_process_writes(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    left = [f"spec.json.{'a' * 16}.partial", f"trials/a/adapter.{'b' * 16}.partial/x", "checkpoint.safetensors.partial"]
    theirs = f"groups/one/spec.json.{'c' * 16}.partial"
    for name in (*left, theirs, "trials/a/trial.json"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{}")
    (run / "groups" / "one" / LOCK).touch()
    with lock_run(run):
        assert sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()) == sorted(
            [LOCK, theirs, f"groups/one/{LOCK}", "trials/a/trial.json"]
        )


def test_beside_other_places_only_what_is_old_goes(tmp_path: Path) -> None:
    old, young = tmp_path / f"p[1].csv.{'a' * 16}.partial", tmp_path / f"p[1].csv.{'b' * 16}.partial"
    other = tmp_path / f"p1.csv.{'c' * 16}.partial"
    for path in (old, young, other):
        path.write_text("")
        os.utime(path, (0, 0)) if path is not young else None
    write_bytes(tmp_path / "p[1].csv", b"1")
    assert [old.exists(), young.exists(), other.exists()] == [False, True, True]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("old")

    def fails() -> None:
        with replacing_folder(tmp_path / "model") as partial:
            (partial / "new").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "old"]
    with replacing_folder(tmp_path / "model") as partial:
        (partial / "new").write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "new"]


def test_a_link_in_a_new_folder_is_not_followed_to_change_who_may_read_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0o600)

    def links() -> None:
        with replacing_folder(tmp_path / "model") as partial:
            (partial / "link").symlink_to(tmp_path / "secret")

    with pytest.raises(RecordsError, match="link"):
        links()
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_a_resumed_compare_with_a_forged_id_deletes_nothing(tmp_path: Path, victim: Path) -> None:
    from lowregret.study.scheduler import resumable_records

    run = tmp_path / "run"
    home = run / "trials" / record().id
    home.mkdir(parents=True)
    shutil.copy(victim / "keep.txt", victim / "trial.json")
    forged = json.loads(record().model_dump_json()) | {"id": "../../victim", "status": "failed"}
    (home / TRIAL).write_text(json.dumps(forged))
    with pytest.raises(RecordsError, match=r"trial\.json: field 'id'"):
        resumable_records(run, None, print)
    assert (victim / "trial.json").exists()


def test_a_link_that_leads_in_a_circle_leads_nowhere_else(tmp_path: Path) -> None:
    """pathlib's own resolve raises RuntimeError there: a fuzzer's input of records found it."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "one").symlink_to("other")
    (tmp_path / "other").symlink_to("one")
    refuse_links(tmp_path)
    assert within(tmp_path, "loop") == tmp_path / "loop"
    with pytest.raises(RecordsError, match="loop"), lock_run(tmp_path / "loop"):
        pass
