"""A part of a study in a store: whole as it was at one moment, of one writer at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowregret.errors import FolderLockedError, StoreError
from lowregret.runs import lease as leases
from lowregret.runs.holder import Holder, holder_of
from lowregret.runs.lease import Lease, leasing
from lowregret.runs.lock import is_locked
from lowregret.runs.mirror import STUDY_PART, Mirror, Part, fetch_studies, parts_in
from lowregret.runs.store import Store, require_url

obstore = pytest.importorskip("obstore")
GROUP = Part.of_group("main.lora")
HELD = Lease(Holder.here(), 1)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The store that every address is."""
    import obstore.store

    made = obstore.store.MemoryStore()
    monkeypatch.setattr("obstore.store.from_url", lambda url, **options: made)
    return made


@pytest.fixture
def store(memory: Any) -> Store:
    return Store("s3://lab/toy")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases of a tenth of a second."""
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(leases, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(leases, "_LOOK_SECONDS", 0.02)


def written(study: Path, **files: str) -> Path:
    for name, text in files.items():
        place = study / "groups" / "main.lora" / name.replace("__", "/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return study


def read(study: Path) -> dict[str, str]:
    """Without what is of one machine."""
    files = (path for path in study.rglob("*") if path.is_file() and path.name != ".store")
    return {path.relative_to(study).as_posix(): path.read_text() for path in files}


def test_what_is_sent_is_what_is_fetched_and_nothing_else_is_touched(store: Store, tmp_path: Path) -> None:
    here = written(tmp_path / "here", spec="1", trials__one__metrics="2", checkpoint="3")
    for name in (".lock", "x.partial"):
        (here / "groups" / "main.lora" / name).touch()
    there = written(tmp_path / "there", checkpoint="old", gone="x")
    (there / "study.json").write_text("own")
    sender, receiver = Mirror(store, GROUP, here), Mirror(store, GROUP, there)
    assert not receiver.pull(), "nothing is there yet, and nothing is removed here"
    sender.push(HELD)
    assert receiver.pull()
    wanted = {
        "groups/main.lora/spec": "1",
        "groups/main.lora/trials/one/metrics": "2",
        "groups/main.lora/checkpoint": "3",
    }
    assert read(there) == {**wanted, "study.json": "own"}
    written(here, checkpoint="4")
    (here / "groups/main.lora/spec").unlink()
    sender.push(HELD)
    assert receiver.pull()
    assert read(there)["groups/main.lora/checkpoint"] == "4"
    assert "groups/main.lora/spec" not in read(there)
    assert len(store.keys("files")) == 2, "what the newest manifest does not name is removed"
    assert parts_in(store) == [GROUP]


def test_a_log_that_is_open_goes_on_from_what_the_store_has(store: Store, tmp_path: Path) -> None:
    first, second = tmp_path / "first" / "logs" / "main.lora.txt", tmp_path / "second" / "logs" / "main.lora.txt"
    first.parent.mkdir(parents=True)
    first.write_text("one\n")
    Mirror(store, GROUP, tmp_path / "first").push(HELD)
    second.parent.mkdir(parents=True)
    with second.open("a") as log:
        log.write("two\n")
        log.flush()
        mirror = Mirror(store, GROUP, tmp_path / "second")
        for _ in range(2):
            mirror.pull(writes=True)
        mirror.clear()
        log.write("three\n")
    assert second.read_text() == "one\ntwo\nthree\n"
    mirror.push(HELD)
    Mirror(store, GROUP, tmp_path / "first").pull()
    assert first.read_text() == "one\ntwo\nthree\n"


def test_a_sending_that_was_killed_leaves_what_was_there(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, sender = written(tmp_path / "here", spec="1", checkpoint="1"), None
    sender = Mirror(store, GROUP, here)
    sender.push(HELD)
    written(here, spec="2", checkpoint="2")
    monkeypatch.setattr(Store, "create", _killed)
    with pytest.raises(KeyboardInterrupt):
        sender.push(HELD)
    monkeypatch.undo()
    monkeypatch.setattr("obstore.store.from_url", lambda url, **options: store._store)
    again = Mirror(Store("s3://lab/toy"), GROUP, tmp_path / "there")
    assert again.pull()
    assert set(read(tmp_path / "there").values()) == {"1"}
    assert len(store.keys("files")) == 4
    again.tidy()
    assert len(store.keys("files")) == 2


def _killed(*arguments: object) -> bool:
    raise KeyboardInterrupt


def test_who_was_taken_to_be_gone_writes_nothing_more(store: Store, tmp_path: Path) -> None:
    slow, new = (Mirror(store, GROUP, written(tmp_path / name, spec=name)) for name in ("slow", "new"))
    slow.push(HELD)
    new.pull()
    new.push(HELD, claim=True)
    before = {key: store.get(key) for key in store.keys("manifests")}
    written(tmp_path / "slow", spec="late")
    with pytest.raises(FolderLockedError, match=r"another process writes group-main.lora there by now"):
        slow.push(HELD)
    assert {key: store.get(key) for key in store.keys("manifests")} == before


@pytest.mark.usefixtures("quick")
def test_a_lease_has_one_holder_until_it_is_silent(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with leasing(store, "study") as first:
        with (
            pytest.raises(FolderLockedError, match=rf"process {first.holder.pid} on .* is writing study there"),
            leasing(store, "study"),
        ):
            raise AssertionError("two have it")
        with leasing(store, "group-other"):
            pass
    with leasing(store, "study") as second:
        assert second.number == first.number + 1
        stopped = threading.Event()
        put = store.put
        monkeypatch.setattr(store, "put", lambda *arguments: None if stopped.is_set() else put(*arguments))
        stopped.set()  # it lives, but nobody hears of it
        with leasing(Store("s3://lab/toy"), "study") as third:
            assert third.number == second.number + 1
            until(lambda: second.lost)
            assert not third.lost


def until(found: Callable[[], bool]) -> None:
    wait = threading.Event()
    for _ in range(500):
        if found():
            return
        wait.wait(0.02)
    raise AssertionError("it does not come")


@pytest.mark.usefixtures("quick")
def test_the_lease_of_a_process_that_has_ended_here_is_free_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SILENT_SECONDS", 1000.0)
    gone = Lease(Holder("machine", "host", 2**22 + 1, "token"), 1)
    monkeypatch.setattr(Holder, "here", classmethod(lambda cls: gone.holder))
    with leasing(store, "study"), leasing(store, "study") as second:
        assert second.number == 2


@pytest.mark.usefixtures("quick")
def test_a_store_without_conditional_writes_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "create", lambda key, content: store.put(key, content) is None)
    with pytest.raises(StoreError, match="ignores `If-None-Match`"), leasing(store, "study"):
        raise AssertionError("nobody keeps others out")


def test_a_manifest_that_leads_elsewhere_or_is_damaged_is_told(store: Store, tmp_path: Path) -> None:
    name = "manifests/group-main.lora/000000001"
    entry = '{"sha256": "%s", "bytes": 1}' % ("0" * 64)
    for path in ("groups/main.lora/../../x", "/etc/passwd", "groups/other.lora/spec", "groups/main.lora//x"):
        store.put(name, f'{{"lowregret": "1", "files": {{"{path}": {entry}}}}}'.encode())
        with pytest.raises(StoreError, match=r"is no file of group-main.lora"):
            Mirror(store, GROUP, tmp_path).pull()
    store.put(name, b"{")
    with pytest.raises(StoreError, match="damaged"):
        Mirror(store, GROUP, tmp_path).pull()
    store.put(name, f'{{"lowregret": "1", "files": {{"groups/main.lora/x": {entry}}}}}'.encode())
    with pytest.raises(StoreError, match="names files that are not there"):
        Mirror(store, GROUP, tmp_path).pull()
    store.put("files/groups/main.lora/x@0000000000000000", b"?")
    with pytest.raises(StoreError, match="is not what its manifest says"):
        Mirror(store, GROUP, tmp_path).pull()


def test_what_is_no_address_is_told_without_its_secrets() -> None:
    assert require_url("s3://lab/a/b-1/") == "s3://lab/a/b-1"
    for text in (
        "runs/out",
        "http://lab/x",
        "s3://",
        "s3://lab/../x",
        "s3://key:hunter2@lab/x",
        "s3://lab/x?token=hunter2",
    ):
        with pytest.raises(StoreError, match="give s3://BUCKET/NAME") as raised:
            require_url(text)
        assert "hunter2" not in str(raised.value)


def test_a_store_that_holds_no_study_is_told(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no study is kept there"):
        fetch_studies("s3://lab/toy", tmp_path)
    (tmp_path / "study.json").write_text("{}")
    Mirror(store, STUDY_PART, tmp_path).push(HELD)
    assert fetch_studies("s3://lab/toy", tmp_path / "copies") == {"s3://lab/toy": tmp_path / "copies" / "toy"}


def test_studies_below_an_address_have_a_copy_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import obstore.store

    bucket = tmp_path / "bucket"
    monkeypatch.setattr(
        "obstore.store.from_url",
        lambda url, **options: obstore.store.LocalStore(bucket / url.removeprefix("s3://lab").strip("/"), mkdir=True),
    )
    for name in ("a/b", "a-b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "study.json").write_text(f'"{name}"')
        Mirror(Store(f"s3://lab/{name}"), STUDY_PART, tmp_path / name).push(HELD)
    (bucket / "not ours" / "manifests" / "study").mkdir(parents=True)
    (bucket / "not ours" / "manifests" / "study" / "000000001").write_bytes(b"?")
    copies = fetch_studies("s3://lab", tmp_path / "copies")
    held = {address: (copy / "study.json").read_text() for address, copy in copies.items()}
    assert held == {"s3://lab/a-b": '"a-b"', "s3://lab/a/b": '"a/b"'}


def test_what_is_too_large_to_be_ours_is_not_read(
    memory: Any, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lowregret.runs.store.OBJECT_BYTES", 1000)
    memory.put("manifests/study/000000001", b" " * 1001)
    with pytest.raises(StoreError, match="has 1,001 bytes, above the limit of 1,000"):
        fetch_studies("s3://lab/toy", tmp_path)


@pytest.mark.usefixtures("quick")
def test_a_copy_shows_who_trains_a_group_and_who_does_not(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lowregret.runs.mirror.BEAT_SECONDS", leases.BEAT_SECONDS)
    monkeypatch.setattr("lowregret.runs.mirror._LATE_SECONDS", 0.2)
    (tmp_path / "study.json").write_text("{}")
    Mirror(store, STUDY_PART, tmp_path).push(HELD)
    store.put("leases/group-silent/000000001", b'{"pid": 1}')
    with leasing(store, "group-main.lora") as lease:
        (copy,) = fetch_studies("s3://lab/toy", tmp_path / "one").values()
    holder = holder_of(copy / "groups" / "main.lora")
    assert holder is not None
    assert (holder.pid, holder.token) == (lease.holder.pid, lease.holder.token)
    assert is_locked(copy / "groups" / "main.lora")
    assert not is_locked(copy / "groups" / "silent")
    (copy,) = fetch_studies("s3://lab/toy", tmp_path / "two").values()
    assert not is_locked(copy / "groups" / "main.lora")


def test_who_comes_back_after_several_manifests_of_another_spoils_none(store: Store, tmp_path: Path) -> None:
    slow, new = (Mirror(store, GROUP, tmp_path / name) for name in ("slow", "new"))
    written(tmp_path / "slow", spec="same", checkpoint="1")
    slow.push(HELD)
    new.pull()
    new.push(HELD, claim=True)
    for text in ("2", "3"):  # the numbers before are removed, so the one that the slow one would take is free again
        written(tmp_path / "new", checkpoint=text)
        new.push(HELD)
    written(tmp_path / "slow", spec="late")
    with pytest.raises(FolderLockedError, match=r"another process writes group-main.lora there by now"):
        slow.push(HELD)
    assert Mirror(store, GROUP, tmp_path / "third").pull()
    assert set(read(tmp_path / "third").values()) == {"same", "3"}
    new.push(HELD, claim=True)


def test_a_manifest_whose_answer_was_lost_is_ones_own(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, create = Mirror(store, GROUP, written(tmp_path, spec="1")), store.create
    monkeypatch.setattr(store, "create", lambda key, content: create(key, content) and create(key, content))
    mirror.push(HELD)
    assert Mirror(store, GROUP, tmp_path / "other").pull()


def test_a_part_whose_name_leads_elsewhere_is_none_and_removes_nothing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "study" / "groups").mkdir(parents=True)
    (tmp_path / "study" / "own.txt").write_text("own")
    for name in ("group-..", "group-.", "group-", "strange"):
        store.put(f"manifests/{name}/000000001", b'{"lowregret": "1", "files": {}}')
    store.put("manifests/group-main.lora/notes", b"no manifest")
    store.put("leases/group-main.lora/notes", b"no lease")
    assert parts_in(store) == [GROUP]
    for part in parts_in(store):
        Mirror(store, part, tmp_path / "study").pull()
    assert (tmp_path / "study" / "own.txt").exists()
    with leasing(store, GROUP.name) as lease:
        assert lease.number == 1


def test_what_was_trained_while_the_store_was_silent_is_not_undone(store: Store, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    Mirror(store, GROUP, written(here, spec="1", checkpoint="1")).push(HELD)
    assert not Mirror(store, GROUP, here).is_ahead()
    written(here, checkpoint="2")
    again = Mirror(store, GROUP, here)
    assert again.is_ahead()
    assert again.pull(writes=True)
    assert read(here)["groups/main.lora/checkpoint"] == "2"
    again.push(HELD)
    other = Mirror(store, GROUP, there)
    other.pull(writes=True)
    assert read(there) == read(here)
    written(here, checkpoint="3")
    other.push(Lease(Holder.here(), 2), claim=True)  # another goes on from the store: now that counts
    late = Mirror(store, GROUP, here)
    assert not late.is_ahead()
    late.pull(writes=True)
    assert read(here)["groups/main.lora/checkpoint"] == "2"
    assert not any(".store" in key for key in store.keys("files"))


def test_what_is_asked_on_a_machine_stays_there(store: Store, tmp_path: Path) -> None:
    Mirror(store, GROUP, written(tmp_path / "here", spec="1")).push(HELD)
    there = written(tmp_path / "there", requests__one="stop", gone="x")
    (there / "groups/main.lora/paused.json").write_text("{}")
    mirror = Mirror(store, GROUP, there)
    mirror.pull()
    assert set(read(there)) == {f"groups/main.lora/{name}" for name in ("spec", "requests/one", "paused.json")}
    mirror.push(HELD, claim=True)
    assert len(store.keys("files")) == 1


def test_a_copy_to_be_read_has_no_checkpoints_and_nothing_goes_on_from_it(store: Store, tmp_path: Path) -> None:
    here = written(tmp_path / "here", spec="1")
    (here / "groups/main.lora/checkpoint.safetensors").write_text("large")
    Mirror(store, GROUP, here).push(HELD)
    copy = tmp_path / "copy"
    Mirror(store, GROUP, copy).pull(to_read=True)
    assert read(copy) == {"groups/main.lora/spec": "1"}
    Mirror(store, GROUP, copy).pull(writes=True)
    assert read(copy) == read(here)
