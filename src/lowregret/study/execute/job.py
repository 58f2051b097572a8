"""A group to be trained, what it needs, and how an attempt at it ended: what all engines that train groups speak of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from lowregret.errors import LowregretError
from lowregret.quantities import byte_count
from lowregret.spec import GroupSpec
from lowregret.study.tracking.tracker import Track


@dataclass(frozen=True)
class Needs:
    """What a worker must have for a group."""

    cpus: int = 1
    memory_bytes: int = 0
    """Of the machine; 0 asks for none in particular."""
    gpus: float = 0.0
    """A part of one, or a whole number of them on one node."""

    def __str__(self) -> str:
        parts = [f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}"]
        parts += [byte_count(self.memory_bytes)] * (self.memory_bytes > 0)
        parts += [f"{self.gpus:g} GPU{'s' if self.gpus > 1 else ''}"] * (self.gpus > 0)
        return ", ".join(parts)


@dataclass(frozen=True)
class GroupJob:
    """A group to be trained."""

    folder: Path
    spec: GroupSpec
    label: str
    """For the lines that are said of it."""
    after: Path | None
    """The folder of the group whose best rates this one starts from."""
    needs: Needs = Needs()
    seconds: float = 0.0
    """What it takes by the plan; 0 where that is not known."""

    @property
    def study(self) -> Path:
        """The folder of the study that it is of."""
        return self.folder.parents[1]


@dataclass(frozen=True)
class Expected:
    """What a worker on another machine must find there."""

    working_folder: Path
    """To which the names of bases and data are relative."""
    study: Path
    """The study's folder."""
    token: str
    """Who has locked it: read there, it is the same folder."""
    versions: tuple[tuple[str, str], ...]
    """Package → version, of the machine that runs the study."""
    store: str | None = None
    """Where the study is kept: then its folder need not be seen."""


@dataclass(frozen=True)
class Task:
    """One attempt at a group."""

    job: GroupJob
    starts: Mapping[str, float]
    """Method name → learning rate to start its search from."""
    given_up: Mapping[str, str] = field(default_factory=dict)
    """Trial's id → why it is not tried again: its workers were lost."""
    threads: int | None = None
    """Of torch; torch's own choice when None."""
    track: Track | None = None
    expected: Expected | None = None
    """None on the machine that runs the study."""
    store: str | None = None
    """The address where the study is kept as well; None for its folder alone."""
    take_from: tuple[Path, ...] = ()
    """Folders of other runs whose trials are taken over."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended."""

    kind: Literal["done", "stopped", "locked", "failed", "lost"]
    """stopped: by a signal, after a checkpoint. locked: another process writes in the folder. failed: by an error that
    would come again. lost: the worker is gone, or met what no error is meant for."""
    error: LowregretError | None = None
    """Of one that was locked or failed, or lost for it: a store that does not answer is no fault of a trial."""
    why: str = ""
    """Of one that was lost."""


@dataclass(frozen=True)
class Ended:
    """An attempt that is over."""

    task: Task
    outcome: Outcome


class Executor(Protocol):
    """An engine that trains groups. The records in their folders are all that it leaves behind."""

    name: str
    watches: bool
    """Whether somebody must read the records to know how training goes; else its observer is told."""

    def has_room(self, needs: Needs) -> bool:
        """Whether to submit one more; ClusterError when there will never be room for it."""

    def submit(self, task: Task) -> None:
        """Begin an attempt as soon as there is room."""

    def events(self, seconds: float) -> Sequence[Ended]:
        """What has ended; waits at most so long for the first."""

    def cancel(self) -> None:
        """Stop all after a checkpoint, and wait for that."""

    def close(self) -> None:
        """Let go of what was started; what still runs is ended."""
