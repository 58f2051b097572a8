"""A part of a study's folder, kept in a store as well, from which any machine goes on with it.

NAME@HASH below files/        the content of a file, by its path in the study's folder
manifests/PART/NUMBER         which of them the part consists of: written last, and only where that number is not there
leases/PART/NUMBER            who writes the part (`runs.lease`)

What the newest manifest names is the part as it was at one moment, so a store is to a machine what the folder is to a
process that was killed at that moment. A process that was taken to be gone, and writes yet, finds its number taken.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from lowregret.errors import FolderLockedError, RecordsError, StoreError
from lowregret.runs.atomic import PARTIAL, make_folder, read_json, remove_file, remove_folder, write_json
from lowregret.runs.files import (
    CHECKPOINT,
    CLAIMS,
    GROUPS,
    LOCK,
    LOGS,
    PAUSED,
    REQUESTS,
    SENT,
    STUDY,
    TIMINGS,
    TRACKING,
)
from lowregret.runs.lease import BEAT_SECONDS, Lease, holder_in, leases_in, numbered
from lowregret.runs.record import Record
from lowregret.runs.store import Store, is_url, require_url
from lowregret.strict_json import to_json
from lowregret.version import __version__

MANIFESTS, _FILES = "manifests", "files"
_GROUP = "group-"
_NAME = re.compile(rf"{_GROUP}\w[\w.+=-]*")
"""A group's part as a store names it: anything else, as `group-..`, may lead out of the groups' folder."""
_OWN = {LOCK, PAUSED, REQUESTS, SENT}
"""Of a group, files and folders that are of one machine: what is asked there is of who trains there."""
_SHORT = 16
_LATE_SECONDS = 1.0
_TRIES = 5
"""A manifest and what it names are gone together when a newer one is written while they are read."""
_WHOLE_BYTES = 64 * 2**20
"""A file up to this size is read once, so that what is sent is what was hashed, whatever is added to it meanwhile."""


@dataclass(frozen=True)
class Part:
    """Files of a study's folder that one process writes."""

    name: str
    files: tuple[str, ...]
    """By their paths in the study's folder."""
    folders: tuple[str, ...]
    """The same, with all that they hold."""

    @classmethod
    def of_group(cls, key: str) -> Part:
        return cls(f"{_GROUP}{key}", (f"{LOGS}/{key}.txt",), (f"{GROUPS}/{key}",))

    def has(self, path: str) -> bool:
        """Whether it is a path of this part, and no way out of the folder."""
        pure = PurePosixPath(path)
        plain = not pure.is_absolute() and ".." not in pure.parts and str(pure) == path and "\\" not in path
        plain = plain and path.isprintable() and _OWN.isdisjoint(pure.parts) and not path.endswith(PARTIAL)
        return plain and (path in self.files or any(path.startswith(f"{folder}/") for folder in self.folders))


STUDY_PART = Part("study", (STUDY, CLAIMS, TRACKING), (TIMINGS,))


class _File(Record):
    sha256: str
    bytes: int


class _Manifest(Record):
    lowregret: str
    files: dict[str, _File]
    by: str = ""
    """The token of the lease under which it was written."""


class Mirror:
    """A part, here and in a store."""

    def __init__(self, store: Store, part: Part, study: Path) -> None:
        """`study`: its folder on this machine."""
        self._store, self._part, self._study = store, part, study
        self._number = 0
        self._stored: Mapping[str, _File] = {}
        self._hashed: dict[str, tuple[tuple[int, int], _File]] = {}

    def pull(self, *, writes: bool = False, to_read: bool = False) -> bool:
        """Make the files here those of the store; False where it has none, and nothing is changed. Where this process
        `writes` the part, its log is open: what the store has of it is put before what is here. What is here then stays
        where it goes on from the store's newest manifest, as after a store that did not answer: it is sent next.
        `to_read`: without checkpoints, which may be large, and which no reader of records needs.

        StoreError for a manifest that is damaged, or names files that are not there.
        """
        for _ in range(_TRIES):
            number, manifest = self._latest()
            if manifest is None:
                return False
            if writes and self._goes_on_from(manifest):
                self._number, self._stored = number, manifest.files
                return True
            logs = {path for path in self._part.files if writes and path.startswith(f"{LOGS}/")}
            others = {path: file for path, file in manifest.files.items() if path not in logs}
            if to_read:
                others = {path: file for path, file in others.items() if PurePosixPath(path).name != CHECKPOINT}
            if all(self._fetched(path, file) for path, file in others.items()):
                for path in set(self._here()) - others.keys() - logs:
                    remove_file(self._study / path)
                for path in logs & manifest.files.keys():
                    self._put_before(path, self._store.get(_object(path, manifest.files[path])) or b"")
                self._number, self._stored = number, manifest.files
                if not to_read:
                    self._note(manifest)
                return True
        raise StoreError(
            f"{self._store.url}/{MANIFESTS}/{self._part.name}: names files that are not there. Delete that folder of "
            f"the store and what {_FILES}/ has of it, and run the same command again: it is trained anew."
        )

    def is_ahead(self) -> bool:
        """Whether what is here goes on from what the store has, and is more than that."""
        _, manifest = self._latest()
        if manifest is None or not self._goes_on_from(manifest):
            return False
        return {path: self._looked_at(path) for path in self._here()} != manifest.files

    def _goes_on_from(self, manifest: _Manifest) -> bool:
        try:
            return bool(self._sent_from(manifest) in [read_json(place) for place in self._notes() if place.is_file()])
        except RecordsError:
            return False

    def _note(self, manifest: _Manifest) -> None:
        for place in self._notes():
            if place.parent.is_dir():
                write_json(place, self._sent_from(manifest))

    def _notes(self) -> list[Path]:
        """In a group's folder, so that it goes with that."""
        return [self._study / folder / SENT for folder in self._part.folders if self._part != STUDY_PART]

    def _sent_from(self, manifest: _Manifest) -> dict[str, str]:
        content = to_json(manifest.model_dump(mode="json"), sort_keys=True).encode()
        return {"store": self._store.url, "manifest": hashlib.sha256(content).hexdigest()}

    def clear(self) -> None:
        """Remove what is here of the part's folders."""
        for folder in self._part.folders:
            remove_folder(self._study / folder)

    def push(self, lease: Lease, *, claim: bool = False) -> None:
        """Make the files of the store those that are here; nobody may be writing them. FolderLockedError, and the store
        is as it was, when another process has the part by now. `claim`: write a manifest though nothing differs, so
        that the number that an earlier holder would write next is taken.
        """
        here = {path: self._looked_at(path) for path in self._here()}
        if here == self._stored and (self._number or not here) and not claim:
            return
        for path, file in here.items():
            if self._stored.get(path) != file:
                here[path] = self._sent(path, file)
        manifest = _Manifest(lowregret=__version__, files=here, by=lease.holder.token)
        if lease.lost or not self._is_next(to_json(manifest.model_dump(mode="json")).encode()):
            raise FolderLockedError(
                f"{self._store.url}: another process writes {self._part.name} there by now: this one was silent "
                "for too long. What was there before is whole."
            )
        before, self._stored = self._stored, here
        self._note(manifest)
        with suppress(StoreError):  # what stays costs room, and is removed by the next start
            for path, file in before.items():
                if here.get(path) != file:
                    self._store.remove(_object(path, file))
            if self._number:
                self._store.remove(self._key(self._number))
        self._number += 1

    def _is_next(self, content: bytes) -> bool:
        """Whether this manifest is the newest one now. Its number is free again where another process has written more
        than one since: then there is a higher one, and what that names must stay."""
        mine = self._key(self._number + 1)
        if not self._store.create(mine, content) and self._store.get(mine) != content:  # ours: its answer was lost
            return False
        if self._numbers()[-1:] == [mine]:
            return True
        self._store.remove(mine)
        return False

    def _numbers(self) -> list[str]:
        return numbered(self._store.keys(f"{MANIFESTS}/{self._part.name}"))

    def tidy(self) -> None:
        """Remove what killed processes have left in the store; for who has the lease, and has written a manifest under
        it: one of before could else be followed by a late one of its writer, which names what is removed here."""
        named = {_object(path, file) for path, file in self._stored.items()}
        places = {f"{_FILES}/{folder}" for folder in self._part.folders}
        places |= {PurePosixPath(_FILES, file).parent.as_posix() for file in self._part.files}
        for key in {key for place in places for key in self._store.keys(place)} - named:
            if self._part.has(key.removeprefix(f"{_FILES}/").rpartition("@")[0]):
                self._store.remove(key)
        for key in self._numbers():
            if key < self._key(self._number):
                self._store.remove(key)

    def _latest(self) -> tuple[int, _Manifest | None]:
        keys = self._numbers()
        content = self._store.get(keys[-1]) if keys else None
        if content is None:
            return 0, None
        try:
            found = _Manifest.model_validate_json(content)
        except ValidationError as error:
            raise StoreError(f"{self._store.url}/{keys[-1]}: damaged ({error.errors()[0]['msg']}).") from None
        strange = next((path for path in found.files if not self._part.has(path)), None)
        if strange is not None:
            raise StoreError(f"{self._store.url}/{keys[-1]}: names {strange!r}, which is no file of {self._part.name}.")
        return int(keys[-1].rpartition("/")[2]), found

    def _here(self) -> Iterator[str]:
        """The paths of the part's files on this machine."""
        for file in self._part.files:
            if (self._study / file).is_file() and not (self._study / file).is_symlink():
                yield file
        for root in self._part.folders:
            for folder, inner, names in os.walk(self._study / root):
                inner[:] = [name for name in inner if name not in _OWN]
                for path in (Path(folder, name) for name in names):
                    if path.name not in _OWN and not path.name.endswith(PARTIAL) and not path.is_symlink():
                        yield path.relative_to(self._study).as_posix()

    def _looked_at(self, path: str) -> _File:
        """A file's hash and size; as it was found the last time where its time and size are the same."""
        status = (self._study / path).stat()
        seen = status.st_mtime_ns, status.st_size
        if path not in self._hashed or self._hashed[path][0] != seen:
            with (self._study / path).open("rb") as file:
                self._hashed[path] = seen, _File(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=seen[1])
        return self._hashed[path][1]

    def _sent(self, path: str, file: _File) -> _File:
        """A file as it was sent."""
        if file.bytes > _WHOLE_BYTES:
            self._store.put(_object(path, file), self._study / path)
            return file
        content = (self._study / path).read_bytes()
        file = _File(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        self._store.put(_object(path, file), content)
        return file

    def _fetched(self, path: str, file: _File) -> bool:
        """Whether a file is here, as the manifest says."""
        place = self._study / path
        if place.is_file() and not place.is_symlink() and self._looked_at(path) == file:
            return True
        make_folder(place.parent)
        if not self._store.fetch(_object(path, file), place, file.bytes):
            return False
        if self._looked_at(path) != file:
            raise StoreError(f"{self._store.url}/{_object(path, file)}: is not what its manifest says (SHA-256).")
        return True

    def _put_before(self, path: str, earlier: bytes) -> None:
        """Begin a log, which is open to be added to and stays that file, with what an earlier worker has said."""
        place = self._study / path
        if not place.is_file() or place.is_symlink() or (now := place.read_bytes()).startswith(earlier):
            return
        with place.open("r+b") as file:
            file.write(earlier + now)

    def _key(self, number: int) -> str:
        return f"{MANIFESTS}/{self._part.name}/{number:09}"


def parts_in(store: Store) -> list[Part]:
    """Those that a store has of a study's groups."""
    names = {key.split("/")[1] for key in store.keys(MANIFESTS)}
    return [Part.of_group(name.removeprefix(_GROUP)) for name in sorted(names) if _NAME.fullmatch(name)]


def studies_in(store: Store) -> list[str]:
    """Below a store's address, the folders of studies; "" for the address itself. A place where no study could be kept
    is somebody else's."""
    end = f"{MANIFESTS}/{STUDY_PART.name}/"
    names = {key.partition(end)[0].rstrip("/") for key in store.keys("") if end in key}
    return sorted(name for name in names if is_url(f"{store.url}/{name}"))


def fetch_studies(url: str, into: Path) -> dict[str, Path]:
    """Copies of all studies below an address, to be read, each by its own address; StoreError where there is none. A
    group that is trained looks locked in its copy: takes as long as one sign of life does."""
    found: dict[str, Path] = {}
    for name in studies_in(Store(url)):
        store = Store(f"{require_url(url)}/{name}".rstrip("/"))
        before, began = leases_in(store), time.monotonic()
        copy = into / (name or store.url.rpartition("/")[2]).replace("/", "%2F")
        found[store.url] = copy
        for part in (STUDY_PART, *parts_in(store)):
            Mirror(store, part, copy).pull(to_read=True)
        if before:
            time.sleep(max(0.0, BEAT_SECONDS + _LATE_SECONDS - (time.monotonic() - began)))
            _show_holders(copy, before, leases_in(store))
    if not found:
        raise StoreError(f"{url}: no study is kept there.")
    return found


def _show_holders(study: Path, before: Mapping[str, bytes], now: Mapping[str, bytes]) -> None:
    """Name in the locks of groups who trains them, as a process whose locks do not reach this machine."""
    for part, said in now.items():
        holder = holder_in(said)
        if _NAME.fullmatch(part) and holder is not None and before.get(part) != said:
            home = study / GROUPS / part.removeprefix(_GROUP)
            make_folder(home)
            write_json(home / LOCK, asdict(replace(holder, machine="the store")))


def _object(path: str, file: _File) -> str:
    return f"{_FILES}/{path}@{file.sha256[:_SHORT]}"
