"""Which folder a study of a store may be in, and what a worker makes of a cache that is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowregret.errors import ClusterError, FolderLockedError, RecordsError, StoreError
from lowregret.questions.registry import make_question
from lowregret.runs.atomic import write_json
from lowregret.runs.lease import leasing
from lowregret.runs.lock import lock_run
from lowregret.runs.mirror import Mirror, Part
from lowregret.runs.store import Store
from lowregret.study.execute import work
from lowregret.study.execute.job import Ended, Expected, GroupJob, Outcome, Task
from lowregret.study.execute.shared import require_shared
from lowregret.study.execute.stored import Fetching, at_own_place, kept, mirrored
from lowregret.study.observer import Silent
from lowregret.study.suite import run_studies

obstore = pytest.importorskip("obstore")
URL = "s3://lab/toy"
GROUP = make_question({"kind": "rank"}).groups()[0]


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The store that every address is."""
    import obstore.store

    made = obstore.store.MemoryStore()
    monkeypatch.setattr("obstore.store.from_url", lambda url, **options: made)
    monkeypatch.setenv("LOWREGRET_CACHE", str(tmp_path / "cache"))


def trained(study: Path, text: str = "1") -> Path:
    """A study's folder with a file of a group."""
    place = study / "groups" / GROUP.key
    place.mkdir(parents=True)
    (place / "spec.json").write_text(text)
    write_json(study / "study.json", {"text": text})
    return study


def there(study: Path) -> str:
    return (study / "groups" / GROUP.key / "spec.json").read_text()


def test_what_was_trained_before_a_store_was_named_is_in_it_and_in_the_next_folder(tmp_path: Path) -> None:
    with kept(trained(tmp_path / "a"), URL) as copy:
        assert copy is not None
        copy.push(claim=True)
    with kept(tmp_path / "b", URL):
        assert there(tmp_path / "b") == "1"
        assert (tmp_path / "b" / "study.json").read_text() == (tmp_path / "a" / "study.json").read_text()


def test_a_folder_that_would_lose_a_study_is_refused(tmp_path: Path) -> None:
    with kept(trained(tmp_path / "a"), URL):
        pass
    with pytest.raises(RecordsError, match=f"is a copy of {URL}. Give --store {URL}"), kept(tmp_path / "a", None):
        raise AssertionError("its store would be left behind")
    with pytest.raises(RecordsError, match="is a copy of"), kept(tmp_path / "a", "s3://lab/other"):
        raise AssertionError("it is in another store")
    other = trained(tmp_path / "other", "2")
    with pytest.raises(RecordsError, match=f"holds a study, and so does {URL}"), kept(other, URL):
        raise AssertionError("its own would be replaced")
    assert there(other) == "2"


def test_what_an_emptied_store_has_left_in_a_cache_is_not_trained_on(tmp_path: Path) -> None:
    expected = Expected(Path.cwd(), tmp_path, "", (), URL)
    job = GroupJob(tmp_path / "study" / "groups" / GROUP.key, GROUP, "one", None)
    task = at_own_place(Task(job, {}, expected=expected, store=URL))
    assert task.job.folder.is_relative_to(tmp_path / "cache")
    left = trained(task.job.study)
    with mirrored(task, Silent()):
        assert not (left / "groups" / GROUP.key / "spec.json").exists()


def test_sending_that_fails_is_said_and_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Told(Silent):
        def say(self, line: str) -> None:
            said.append(line)

    def refused(*arguments: object) -> None:
        raise StoreError("no answer")

    study = trained(tmp_path / "study")
    task = Task(GroupJob(study / "groups" / GROUP.key, GROUP, "one", None), {}, store=URL)
    with mirrored(task, Told()) as seen:
        (task.job.folder / "checkpoint.safetensors").write_text("1")
        with monkeypatch.context() as broken:
            broken.setattr(Store, "put", refused)
            seen.step(None, 1, None)  # type: ignore[arg-type]
        assert said == ["not kept in the store yet: no answer"]
    keys = Store(URL).keys("files")
    assert any("checkpoint.safetensors@" in key for key in keys)


def test_a_worker_that_finds_no_study_in_its_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=f"finds no study in {URL}: its AWS_ENDPOINT_URL may be another one"):
        require_shared(Expected(Path.cwd(), tmp_path, "", (), URL))
    with leasing(Store(URL), "study"):  # a worker is asked before the study is written
        require_shared(Expected(Path.cwd(), tmp_path, "", (), URL))


def test_a_study_that_could_not_begin_leaves_nothing_to_be_found_in_its_store(tmp_path: Path) -> None:
    with pytest.raises(ClusterError), kept(tmp_path / "a", URL):
        raise ClusterError("no such cluster")
    assert Store(URL).keys("manifests") == []


def test_a_folder_that_another_program_writes_is_made_no_copy_of_a_store(tmp_path: Path) -> None:
    study = trained(tmp_path / "a")
    with lock_run(study), pytest.raises(FolderLockedError):
        run_studies({study: make_question({"kind": "rank"})}, stores={study: URL})
    assert not (study / "store.json").exists()
    assert Store(URL).keys("") == []


def refusing(*arguments: object) -> None:
    raise StoreError("no answer")


def test_what_was_trained_while_a_store_was_silent_is_sent_by_the_next_start(tmp_path: Path) -> None:
    study = trained(tmp_path / "a")
    file = study / "groups" / GROUP.key / "spec.json"
    with kept(study, URL):
        pass
    file.write_text("2")
    with lock_run(file.parent), kept(study, URL):
        assert there(study) == "2", "somebody trains it"
    with kept(study, URL):
        Mirror(Store(URL), Part.of_group(GROUP.key), tmp_path / "b").pull()
        assert there(study) == there(tmp_path / "b") == "2"


def test_a_worker_asks_a_silent_store_again_and_says_that_it_was_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task(GroupJob(tmp_path / "study" / "groups" / GROUP.key, GROUP, "one", None), {}, store=URL)
    calls: list[int] = []

    def twice(*arguments: object) -> None:
        calls.append(1)
        if len(calls) < 3:
            raise StoreError("no answer")

    monkeypatch.setattr(work, "_STORE_SECONDS", 0.0)
    monkeypatch.setattr(work, "train", twice)
    assert work._attempt(task, lambda: False).kind == "done"
    monkeypatch.setattr(work, "train", refusing)
    found = work._attempt(task, lambda: False)
    assert (found.kind, type(found.error)) == ("lost", StoreError)


def test_a_group_that_cannot_be_fetched_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(GroupJob(tmp_path / "groups" / GROUP.key, GROUP, "one", None), {}, store=URL)

    class Done:
        name, watches = "a play", True

        def submit(self, task: Task) -> None: ...

        def events(self, seconds: float) -> list[Ended]:
            return [Ended(task, Outcome("done"))]

    engine = Fetching(Done(), {tmp_path: URL})  # type: ignore[arg-type]
    engine.submit(task)
    monkeypatch.setattr(Store, "keys", refusing)
    (event,) = engine.events(0.0)
    assert (event.outcome.kind, type(event.outcome.error)) == ("lost", StoreError)
    monkeypatch.undo()
