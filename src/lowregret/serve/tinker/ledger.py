"""What a server of Tinker's protocol remembers: sessions, models, requests with their answers, samplers, checkpoints.

One SQLite file. What a client has been told was written before: a process that is killed at any moment finds it again.
Its writes outlive the process, not a machine that loses its power (`synchronous=NORMAL` of sqlite.org/wal.html): then
the last moments may be missing, and the file is still whole.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import safetensors.numpy

from lowregret.errors import RecordsError
from lowregret.serve.tinker.tensors import Array
from lowregret.strict_json import to_json

FILE = "ledger.sqlite"
CHECKPOINTS = "checkpoints"
STATES = "states"
VERSION = 1
Kind = Literal["create", "pass", "step", "save", "load", "export", "void", "sample"]
"""What a request asks for; `void` was refused, and keeps its place in the order."""

_TABLES = """
CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, created REAL, seen REAL, about TEXT);
CREATE TABLE IF NOT EXISTS models (
    id TEXT PRIMARY KEY, session TEXT, method TEXT, seed INTEGER, created REAL, used REAL, about TEXT,
    state TEXT, state_seq INTEGER, closed INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS requests (
    id TEXT PRIMARY KEY, owner TEXT, seq INTEGER, kind TEXT, body BLOB, form TEXT, answer BLOB,
    failed INTEGER DEFAULT 0, created REAL, done REAL);
CREATE UNIQUE INDEX IF NOT EXISTS by_owner ON requests (owner, seq);
CREATE TABLE IF NOT EXISTS samplers (id TEXT PRIMARY KEY, session TEXT, folder TEXT, path TEXT, used REAL);
CREATE TABLE IF NOT EXISTS checkpoints (
    path TEXT PRIMARY KEY, model TEXT, kind TEXT, file TEXT, bytes INTEGER, created REAL, about TEXT);
CREATE TABLE IF NOT EXISTS bases (files TEXT);
"""


@dataclass(frozen=True)
class Kept:
    """A request as it came."""

    id: str
    owner: str
    """The model or the sampler that answers it."""
    seq: int
    kind: Kind
    body: bytes
    form: str
    """What the body is: `json`, `proto`."""
    created: float


@dataclass(frozen=True)
class Answer:
    """What is told of a request: plain values, and tensors by name."""

    values: Mapping[str, Any]
    arrays: Mapping[str, Array]
    failed: bool = False

    def dump(self) -> bytes:
        """As a file of safetensors, values in its header."""
        arrays = {name: np.ascontiguousarray(value) for name, value in self.arrays.items()}
        return bytes(safetensors.numpy.save(arrays, {"values": to_json(self.values)}))

    @classmethod
    def load(cls, data: bytes, *, failed: bool) -> Answer:
        """What `dump` gave."""
        size = int.from_bytes(data[:8], "little")
        values = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["values"])
        return cls(values, safetensors.numpy.load(data), failed)


def failure(message: str, category: Literal["user", "server"]) -> Answer:
    """The answer to a request that could not be done."""
    return Answer({"error": message, "category": category}, {}, failed=True)


@final
class Ledger:
    """The file in a folder that its server has locked; any thread may use it."""

    def __init__(self, folder: Path) -> None:
        """RecordsError for a file that is none of this version."""
        self.folder = folder
        self._lock = threading.Lock()
        try:
            self._file = sqlite3.connect(folder / FILE, check_same_thread=False, isolation_level=None)
            self._file.row_factory = sqlite3.Row
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=NORMAL")
            (version,) = self._file.execute("PRAGMA user_version").fetchone()
            if version not in (0, VERSION):
                raise RecordsError(f"{folder / FILE}: another version of lowregret wrote it. Use another --tinker-dir.")
            self._file.executescript(_TABLES)
            self._file.execute(f"PRAGMA user_version={VERSION}")
        except sqlite3.Error as error:
            raise RecordsError(f"{folder / FILE}: cannot be used ({error}). Use another --tinker-dir.") from error

    def bind(self, files: Mapping[str, str]) -> None:
        """All in it is of the base with these files, by their digests; RecordsError where it was begun on another."""
        own = to_json(dict(sorted(files.items())))
        known = self._row("SELECT files FROM bases")
        if known is None:
            self._write("INSERT INTO bases VALUES (?)", own)
        elif known["files"] != own:
            before = json.loads(known["files"])
            other = sorted(name for name in {*before, *files} if before.get(name) != files.get(name))
            raise RecordsError(
                f"{self.folder}: what it keeps was trained on another base ({', '.join(other[:3])} differ). Serve that "
                "one, or give another --tinker-dir."
            )

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._file.close()

    @contextmanager
    def _all_or_nothing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._file.execute("BEGIN IMMEDIATE")
            try:
                yield self._file
                self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction:  # a full disk may have ended it
                    self._file.execute("ROLLBACK")
                raise

    def _rows(self, query: str, *given: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._file.execute(query, given).fetchall()

    def _row(self, query: str, *given: Any) -> sqlite3.Row | None:
        found = self._rows(query, *given)
        return found[0] if found else None

    def _write(self, query: str, *given: Any) -> int:
        with self._all_or_nothing() as file:
            return file.execute(query, given).rowcount

    # sessions

    def add_session(self, session: str, about: Mapping[str, Any]) -> None:
        """A new one."""
        now = time.time()
        self._write("INSERT INTO sessions VALUES (?, ?, ?, ?)", session, now, now, to_json(about))

    def session(self, session: str) -> dict[str, Any] | None:
        """What is known of one."""
        found = self._row("SELECT * FROM sessions WHERE id = ?", session)
        return None if found is None else {**dict(found), "about": json.loads(found["about"])}

    def sessions(self) -> list[str]:
        """All, the newest first."""
        return [row["id"] for row in self._rows("SELECT id FROM sessions ORDER BY created DESC")]

    def see(self, session: str) -> bool:
        """It is alive; False when there is none."""
        return bool(self._write("UPDATE sessions SET seen = ? WHERE id = ?", time.time(), session))

    # models

    def add_model(self, model: str, session: str, method: str, seed: int, about: Mapping[str, Any]) -> bool:
        """A new one; False when there is one of this name."""
        now = time.time()
        values = (model, session, method, seed, now, now, to_json(about))
        return bool(
            self._write(
                "INSERT OR IGNORE INTO models (id, session, method, seed, created, used, about) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                *values,
            )
        )

    def model(self, model: str) -> dict[str, Any] | None:
        """What is known of one."""
        found = self._row("SELECT * FROM models WHERE id = ?", model)
        return None if found is None else {**dict(found), "about": json.loads(found["about"])}

    def models(self, session: str | None = None) -> list[str]:
        """All, or a session's, the newest first."""
        if session is not None:
            found = self._rows("SELECT id FROM models WHERE session = ? ORDER BY created", session)
        else:
            found = self._rows("SELECT id FROM models ORDER BY created DESC")
        return [row["id"] for row in found]

    def state_saved(self, model: str, file: str, seq: int) -> str | None:
        """A model's state up to a request lies in a file now: what came before need not be kept to repeat it. Returns
        the file of the state before."""
        with self._all_or_nothing() as ledger:
            (former,) = ledger.execute("SELECT state FROM models WHERE id = ?", (model,)).fetchone()
            ledger.execute("UPDATE models SET state = ?, state_seq = ? WHERE id = ?", (file, seq, model))
            ledger.execute(
                "UPDATE requests SET body = NULL WHERE owner = ? AND seq <= ? AND done IS NOT NULL", (model, seq)
            )
        return None if former == file else former

    def close_model(self, model: str) -> str | None:
        """It is trained no more. Returns the file of its state, which nothing names from now on."""
        with self._all_or_nothing() as ledger:
            (former,) = ledger.execute("SELECT state FROM models WHERE id = ?", (model,)).fetchone()
            ledger.execute("UPDATE models SET closed = 1, state = NULL WHERE id = ?", (model,))
            ledger.execute("UPDATE requests SET body = NULL WHERE owner = ? AND done IS NOT NULL", (model,))
        return None if former is None else str(former)

    # requests

    def accept(self, asked: Kept) -> bool:
        """Keep a request before it is said to be taken; False when its owner had one of this number."""
        values = (asked.id, asked.owner, asked.seq, asked.kind, asked.body, asked.form, asked.created)
        with self._all_or_nothing() as ledger:
            ledger.execute("UPDATE models SET used = ? WHERE id = ?", (asked.created, asked.owner))
            return bool(
                ledger.execute(
                    "INSERT OR IGNORE INTO requests (id, owner, seq, kind, body, form, created) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    values,
                ).rowcount
            )

    def keep(self, answers: Mapping[str, Answer]) -> None:
        """Keep answers, all at once, before anybody is told."""
        now = time.time()
        rows = [(answer.dump(), answer.failed, now, request) for request, answer in answers.items()]
        with self._all_or_nothing() as ledger:
            ledger.executemany("UPDATE requests SET answer = ?, failed = ?, done = ? WHERE id = ?", rows)
            ledger.executemany(
                "UPDATE requests SET body = NULL WHERE id = ? AND (kind = 'sample' OR failed OR form LIKE '%-forward')",
                [(request,) for request in answers],
            )

    def answer(self, request: str) -> Answer | Literal["waits", "gone"] | None:
        """What a request has come to; None when there is none of this name."""
        row = self._row("SELECT answer, failed, done FROM requests WHERE id = ?", request)
        if row is None:
            return None
        if row["answer"] is None:
            return "gone" if row["done"] else "waits"
        return Answer.load(row["answer"], failed=bool(row["failed"]))

    def id_of(self, owner: str, seq: int) -> str | None:
        """The request of this number."""
        row = self._row("SELECT id FROM requests WHERE owner = ? AND seq = ?", owner, seq)
        return None if row is None else str(row["id"])

    def last(self, owner: str) -> int | None:
        """The largest number among an owner's requests."""
        row = self._row("SELECT MAX(seq) AS last FROM requests WHERE owner = ?", owner)
        return None if row is None else row["last"]

    def following(self, owner: str) -> int:
        """The number of the owner's request that is done next. All before one that was done have been, or were given
        up; but one that was refused says nothing of those before it."""
        row = self._row(
            "SELECT MAX(seq) AS last FROM requests WHERE owner = ? AND done IS NOT NULL AND kind != 'void'", owner
        )
        return self.done_up_to(owner, 0 if row is None or row["last"] is None else row["last"] + 1)

    def done_up_to(self, owner: str, first: int) -> int:
        """The first number, from `first` on, of which there is no request that was answered."""
        rows = self._rows(
            "SELECT seq FROM requests WHERE owner = ? AND seq >= ? AND done IS NOT NULL ORDER BY seq", owner, first
        )
        for row in rows:
            if row["seq"] != first:
                break
            first += 1
        return first

    def waiting(self, *kinds: Kind) -> list[Kept]:
        """Requests of these kinds that have no answer, in order."""
        marks = ", ".join("?" * len(kinds))
        rows = self._rows(
            f"SELECT * FROM requests WHERE done IS NULL AND kind IN ({marks}) ORDER BY created, seq",
            *kinds,
        )
        return [_asked(row) for row in rows]

    def effects(self, model: str, after: int) -> list[Kept]:
        """Passes and steps that were answered with success, behind this number: what a state lacks."""
        rows = self._rows(
            "SELECT * FROM requests WHERE owner = ? AND seq > ? AND done IS NOT NULL AND NOT failed "
            "AND body IS NOT NULL AND kind IN ('pass', 'step', 'load') ORDER BY seq",
            model,
            after,
        )
        return [_asked(row) for row in rows]

    def forget(self, older: float) -> None:
        """Drop answers that were given before this moment; that there were some stays known."""
        self._write("UPDATE requests SET answer = NULL WHERE done < ? AND kind != 'void' AND answer IS NOT NULL", older)

    # samplers and checkpoints

    def add_sampler(self, sampler: str, session: str, folder: str | None, path: str | None) -> None:
        """One that draws by an adapter's folder, or by the base."""
        self._write(
            "INSERT OR IGNORE INTO samplers VALUES (?, ?, ?, ?, ?)", sampler, session, folder, path, time.time()
        )

    def sampler(self, sampler: str) -> dict[str, Any] | None:
        """What is known of one."""
        found = self._row("SELECT * FROM samplers WHERE id = ?", sampler)
        return None if found is None else dict(found)

    def use_sampler(self, sampler: str) -> None:
        """It is drawn by."""
        self._write("UPDATE samplers SET used = ? WHERE id = ?", time.time(), sampler)

    def idle_samplers(self, before: float) -> list[tuple[str, str]]:
        """(name, folder) of those without a path that were last drawn by before this moment."""
        rows = self._rows(
            "SELECT id, folder FROM samplers WHERE path IS NULL AND folder IS NOT NULL AND used < ?", before
        )
        return [(row["id"], row["folder"]) for row in rows]

    def remove_sampler(self, sampler: str, before: float) -> bool:
        """It is there no more; False for one that was drawn by since this moment, which stays."""
        return bool(self._write("DELETE FROM samplers WHERE id = ? AND used < ?", sampler, before))

    def samplers(self, session: str) -> list[str]:
        """A session's."""
        return [row["id"] for row in self._rows("SELECT id FROM samplers WHERE session = ?", session)]

    def add_checkpoint(
        self, path: str, model: str, kind: Literal["weights", "sampler_weights"], file: str, size: int, about: Any
    ) -> str | None:
        """A checkpoint's file by its path; returns the file that it replaces."""
        with self._all_or_nothing() as ledger:
            former = ledger.execute("SELECT file FROM checkpoints WHERE path = ?", (path,)).fetchone()
            ledger.execute(
                "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?, ?, ?)",
                (path, model, kind, file, size, time.time(), to_json(about)),
            )
        return None if former is None or former["file"] == file else former["file"]

    def checkpoint(self, path: str) -> dict[str, Any] | None:
        """What is known of one."""
        found = self._row("SELECT * FROM checkpoints WHERE path = ?", path)
        return None if found is None else {**dict(found), "about": json.loads(found["about"])}

    def checkpoints(self, model: str | None = None) -> list[dict[str, Any]]:
        """A model's, or all, the newest first."""
        if model is None:
            rows = self._rows("SELECT * FROM checkpoints ORDER BY created DESC")
        else:
            rows = self._rows("SELECT * FROM checkpoints WHERE model = ? ORDER BY created DESC", model)
        return [{**dict(row), "about": json.loads(row["about"])} for row in rows]

    def remove_checkpoint(self, path: str, file: str) -> None:
        """A file is named no more; one that has its path by now stays."""
        self._write("DELETE FROM checkpoints WHERE path = ? AND file = ?", path, file)

    def files(self) -> set[str]:
        """All that is named by something: what else lies in the folder is left of a killed process."""
        rows: Sequence[sqlite3.Row] = self._rows(
            "SELECT state AS file FROM models WHERE state IS NOT NULL UNION SELECT file FROM checkpoints "
            "UNION SELECT folder FROM samplers WHERE folder IS NOT NULL"
        )
        return {row["file"] for row in rows}


def _asked(row: sqlite3.Row) -> Kept:
    return Kept(row["id"], row["owner"], row["seq"], row["kind"], row["body"], row["form"], row["created"])
