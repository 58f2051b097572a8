"""A study that is kept in a store: its groups' workers send what they train there, and the program that runs it fetches
what others have sent. A study's part is sent by that program alone, a group's by the worker that has its lease."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from lowregret.errors import FolderLockedError, RecordsError, StoreError
from lowregret.folders import cache_folder
from lowregret.runs.atomic import make_folder, write_json
from lowregret.runs.files import CHECKPOINT, GROUPS, STORE, STORES, STUDY
from lowregret.runs.lease import Lease, leasing
from lowregret.runs.lock import is_locked
from lowregret.runs.measured import read_store
from lowregret.runs.mirror import STUDY_PART, Mirror, Part, parts_in
from lowregret.runs.records import Metric, TrialRecord
from lowregret.runs.store import Store
from lowregret.spec import TrialSpec
from lowregret.study.execute.job import Ended, Executor, Needs, Outcome, Task
from lowregret.study.observer import Observer, Relay

_LOOK_SECONDS = 5.0


class Kept:
    """A study's own part, whose lease this program has."""

    def __init__(self, mirror: Mirror, lease: Lease) -> None:
        self._mirror, self._lease = mirror, lease

    def push(self, *, claim: bool = False) -> None:
        """Send what has changed, as `Mirror.push` does. FolderLockedError when another program has the study by now."""
        self._mirror.push(self._lease, claim=claim)


@contextmanager
def kept(study: Path, url: str | None) -> Iterator[Kept | None]:
    """A study's folder as its store has it, sent there once more at the end; as it is where no store is named.

    RecordsError where the folder is another study's, or is kept in a store that was not named: what either has would be
    lost.
    """
    _require_own(study, url)
    if url is None:
        yield None
        return
    store = Store(url)
    with leasing(store, STUDY_PART.name) as lease:
        mirror = Mirror(store, STUDY_PART, study)
        if mirror.pull():
            mirror.push(lease, claim=True)
            mirror.tidy()
        stored = parts_in(store)
        for part in stored:
            _fetch_group(store, part, study)
        for part in (Part.of_group(folder.name) for folder in sorted(study.glob(f"{GROUPS}/*"))):
            if part not in stored:  # trained before a store was named
                with leasing(store, part.name) as own:
                    Mirror(store, part, study).push(own)
        make_folder(study)
        write_json(study / STORE, {"store": url})
        found = Kept(mirror, lease)
        try:
            yield found
        except BaseException:
            with suppress(StoreError, FolderLockedError):
                found.push()
            raise
        found.push()


def _fetch_group(store: Store, part: Part, study: Path) -> None:
    """A group as its store has it; or the store's as it is here, where that goes on from it. Left alone where somebody
    trains it here."""
    if any(is_locked(study / folder) for folder in part.folders):
        return
    mirror = Mirror(store, part, study)
    if not mirror.is_ahead():
        mirror.pull()
        return
    with suppress(FolderLockedError), leasing(store, part.name) as lease:
        if mirror.pull(writes=True):
            mirror.push(lease)


def _require_own(study: Path, url: str | None) -> None:
    known = read_store(study)
    if known is not None and known != url:
        raise RecordsError(
            f"{study}: is a copy of {known}. Give --store {known}, with which it goes on, or use another --out."
        )
    if url is not None and known is None and (study / STUDY).exists() and parts_in(Store(url)):
        raise RecordsError(
            f"{study}: holds a study, and so does {url}. Use an --out that is empty: the store's is fetched there."
        )


@contextmanager
def mirrored(task: Task, observer: Observer) -> Iterator[Observer]:
    """Around the training of a group: it goes on from what the store has, and what it comes to is sent there, with each
    trial that ends and each checkpoint; where no store is named, nothing is done. FolderLockedError when another worker
    has the group."""
    if task.store is None:
        yield observer
        return
    store = Store(task.store)
    part = Part.of_group(task.job.spec.key)
    with leasing(store, part.name) as lease:
        mirror = Mirror(store, part, task.job.study)
        there = mirror.pull(writes=True)
        if not there and task.expected is not None:  # what a study of before has left in this machine's cache
            mirror.clear()
        mirror.push(lease, claim=True)
        if there:
            mirror.tidy()
        try:
            yield _Sending(observer, mirror, lease, task.job.folder / CHECKPOINT)
        except FolderLockedError:
            raise
        except BaseException:
            with suppress(StoreError):
                mirror.push(lease)
            raise
        mirror.push(lease)


class _Sending(Relay):
    """An observer that sends a group's files when it is told of what is to be kept."""

    def __init__(self, inner: Observer, mirror: Mirror, lease: Lease, checkpoint: Path) -> None:
        super().__init__(inner)
        self._mirror, self._lease, self._checkpoint = mirror, lease, checkpoint
        self._seen = 0

    def stepped(self, trial: TrialSpec, metric: Metric) -> None:
        seen = self._checkpoint.stat().st_mtime_ns if self._checkpoint.exists() else 0
        if seen != self._seen:
            self._seen = seen
            self._send()

    def ended(self, record: TrialRecord) -> None:
        self._send()

    def _send(self) -> None:
        try:
            self._mirror.push(self._lease)
        except StoreError as error:  # what is not sent now is sent with the next
            self._inner.say(f"not kept in the store yet: {error}")


class Fetching:
    """An engine whose workers train on other machines, and keep what they train in stores."""

    watches = True

    def __init__(self, inner: Executor, stores: Mapping[Path, str]) -> None:
        self._inner = inner
        self._stores = {study: Store(url) for study, url in stores.items()}
        self._running: dict[Path, Mirror] = {}
        self._looked = time.monotonic()
        self.name = inner.name

    def has_room(self, needs: Needs) -> bool:
        return self._inner.has_room(needs)

    def submit(self, task: Task) -> None:
        job = task.job
        self._running[job.folder] = Mirror(self._stores[job.study], Part.of_group(job.spec.key), job.study)
        self._inner.submit(task)

    def events(self, seconds: float) -> Sequence[Ended]:
        found = list(self._inner.events(seconds))
        for event in tuple(found):
            try:
                self._running[event.task.job.folder].pull()
            except StoreError as error:  # what was trained is there: another attempt finds that it has ended
                found[found.index(event)] = Ended(event.task, Outcome("lost", StoreError(str(error)), str(error)))
            del self._running[event.task.job.folder]
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            for mirror in self._running.values():
                with suppress(StoreError):  # for the table: what counts is fetched at the end
                    mirror.pull()
            self._looked = time.monotonic()
        return found

    def cancel(self) -> None:
        self._inner.cancel()

    def close(self) -> None:
        self._inner.close()


def at_own_place(task: Task) -> Task:
    """The task with a folder of this machine: one for each study of a store."""
    assert task.store is not None
    name = hashlib.sha256(task.store.encode()).hexdigest()[:16]
    folder = cache_folder() / STORES / name / GROUPS / task.job.spec.key
    return replace(task, job=replace(task.job, folder=folder))
