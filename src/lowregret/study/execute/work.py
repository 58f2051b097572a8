"""What a worker does, wherever it is: one attempt at a group. What it says goes to the group's log."""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from lowregret.errors import FolderLockedError, LowregretError, StoreError
from lowregret.foreign_text import redacted
from lowregret.plan.price import Price
from lowregret.runs.atomic import appending, make_folder
from lowregret.runs.files import group_log
from lowregret.runs.records import Metric, TrialRecord
from lowregret.spec import TrialSpec
from lowregret.study.execute.job import Outcome, Task
from lowregret.study.execute.shared import require_shared
from lowregret.study.execute.stored import at_own_place, mirrored
from lowregret.study.group import run_group
from lowregret.study.observer import Observer
from lowregret.study.tracking.tracker import Track, Tracker
from lowregret.train.interrupt import Interrupted, stop_requests

LOCK_SECONDS = 20.0
"""How long a group waits for the worker of a killed session to let go of its folder."""
_STORE_TRIES, _STORE_SECONDS = 10, 5.0
"""How often a worker asks a store that does not answer, which costs nothing that it has trained."""
_STOPS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR2") if hasattr(signal, name))
"""Of a cloud that takes a machine back, of `ray.cancel`, and of SLURM before its limit of time."""


def work(task: Task) -> Outcome:
    """Train what the group still lacks; raises nothing but what ends a process."""
    if task.expected is not None and task.store is not None:
        task = at_own_place(task)
    log = group_log(task.job.study, task.job.spec.key)
    try:
        if task.expected is not None:
            require_shared(task.expected)
            with suppress(FileNotFoundError):  # of a machine that shares nothing but a store
                os.chdir(task.expected.working_folder)
        if task.threads is not None:
            torch.set_num_threads(task.threads)
        if torch.cuda.is_available():  # a worker may have had another part of the device before
            torch.cuda.set_per_process_memory_fraction(min(1.0, task.job.needs.gpus or 1.0))
        make_folder(log.parent)
        with _into(log), stop_requests(lambda line: None, _STOPS) as asked:
            return _attempt(task, asked)
    except LowregretError as error:
        return Outcome("failed", type(error)(str(error)))


def _attempt(task: Task, asked: Callable[[], bool]) -> Outcome:
    _note(f"begins on {platform.node()}, process {os.getpid()}, threads {torch.get_num_threads()}")
    try:
        with watching(task.track, _note) as watched:
            observer = watched(task, Logged())
            end, silent = time.monotonic() + LOCK_SECONDS, 0
            while True:
                try:
                    train(task, observer, asked)
                    break
                except FolderLockedError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.5)
                except StoreError as error:
                    silent += 1
                    if silent == _STORE_TRIES or asked():
                        raise
                    _note(f"tried again in {_STORE_SECONDS:.0f} s: {error}")
                    time.sleep(_STORE_SECONDS)
    except StoreError as error:
        _note(f"error: {error}")
        return Outcome("lost", StoreError(str(error)), str(error))
    except FolderLockedError as error:
        return Outcome("locked", FolderLockedError(str(error)))
    except LowregretError as error:
        _note(f"error: {error}")
        return Outcome("failed", type(error)(str(error)))
    except Interrupted:
        _note("stopped after a checkpoint")
        return Outcome("stopped")
    except Exception as error:  # a device that fails, a library's fault: another worker may do better
        _note(traceback.format_exc())
        return Outcome("lost", why=f"{type(error).__name__}: {error}")
    _note("done")
    return Outcome("done")


def train(task: Task, observer: Observer, should_stop: Callable[[], bool]) -> None:
    """What a group still lacks, kept in the store where the task names one; raises what `run_group` does."""
    with mirrored(task, observer) as seen:
        run_group(task.job.folder, task.job.spec, task.starts, seen, should_stop, task.given_up, task.take_from)


class Logged:
    """An observer (study.observer.Observer) that writes what happens to a group's trials into its log."""

    def say(self, line: str) -> None:
        _note(line)

    def priced(self, price: Price) -> None: ...

    def trial_started(self, trial: TrialSpec, done: int, expected: int) -> None:
        _note(f"{trial.id}: begins")

    def step(self, trial: TrialSpec, steps: int, metric: Metric) -> None:
        if metric.test_loss is not None:
            _note(f"{trial.id}: step {metric.step}/{steps}, held-out {metric.test_loss:.4f}, {metric.seconds:.1f} s")

    def trial_ended(self, record: TrialRecord) -> None:
        found = "" if record.test_loss is None else f", held-out {record.test_loss:.4f}"
        _note(f"{record.id}: {record.status}{found}, {record.seconds:.1f} s{f': {record.error}' * bool(record.error)}")

    def trial_paused(self, record: TrialRecord, step: int, loss: float) -> None: ...


Watched = Callable[[Task, Observer], Observer]


@contextmanager
def watching(track: Track | None, say: Callable[[str], None]) -> Iterator[Watched]:
    """What makes an observer of a group's trials one that tells a tracker as well."""
    if track is None:
        yield lambda task, inner: inner
        return
    with Tracker(track, say) as tracker:
        yield lambda task, inner: tracker.watching(task.job.folder, inner, task.job.study.name, task.job.spec.key)


def _note(line: str) -> None:
    print(redacted(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}"), flush=True)


@contextmanager
def _into(log: Path) -> Iterator[None]:
    """All that this process writes, libraries' own words included, goes to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    streams = sys.stdout, sys.stderr
    try:
        with appending(log) as file, open(os.dup(file.fileno()), "a", buffering=1, encoding="utf-8") as text:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout = sys.stderr = text
            yield
    finally:
        sys.stdout, sys.stderr = streams
        for descriptor, own in zip(kept, (1, 2), strict=True):
            os.dup2(descriptor, own)
            os.close(descriptor)
