"""Every error a user can meet. Each names the file, line or field at fault and says what to do about it.

LowregretError            exit code 2
├── SpecError             a flag, a TOML key or a value of one
├── DataError             a data file, its line and field
├── ModelError            a base that cannot be found or loaded
├── TargetError           a LoRA target that matches nothing in this base
├── RecordsError          a run folder: not writable, disk full, another spec, a damaged file
│   └── FolderLockedError a run folder in which another process is writing
├── HubError              the hub: not logged in, no right to write, not reached, or it refused
├── DivergedError         a loss that is not finite, or worse than guessing uniformly
├── DeclinedError         the user was asked whether to spend so much, and did not say yes
├── LivenessError         a targeted matrix that gets no gradient or does not move
├── RanksError            of a training on many devices: a process has ended, or met what the others did not
├── StoreError            an object store: not reached, no right to it, or what it holds is no study's
└── ClusterError          of a study on a cluster: not reached, other versions, no shared folder, never enough room
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class LowregretError(Exception):
    """Base of all errors that are the input's or the machine's doing, not a bug."""

    exit_code = 2


class SpecError(LowregretError):
    """A flag, a TOML key or a value is wrong."""


class DataError(LowregretError):
    """A data source is wrong; the message starts with `file:line:` where there is one."""

    def __init__(self, message: str, *, source: str | Path | None = None, line: int | None = None) -> None:
        place = "" if source is None else f"{source}:{line}: " if line is not None else f"{source}: "
        super().__init__(place + message)
        self.source = source
        self.line = line


class ModelError(LowregretError):
    """A base cannot be found or loaded."""


class TargetError(LowregretError):
    """A LoRA target matches no weight of the base."""


class RecordsError(LowregretError):
    """A run folder cannot be written, does not belong to this spec, or holds a damaged file."""


class FolderLockedError(RecordsError):
    """Another process is writing in the run folder."""


class DeclinedError(LowregretError):
    """The user was asked before much is spent, and declined; nothing was trained."""

    exit_code = 130


class HubError(LowregretError):
    """The hub cannot be reached, or does not take what is sent."""


class DivergedError(LowregretError):
    """Training left the region of sense: a non-finite loss, or one worse than a uniform guess."""


class LivenessError(LowregretError):
    """A targeted matrix receives no gradient or does not move."""


class RanksError(LowregretError):
    """Of the processes of one training one has ended, or met what the others did not."""


class StoreError(LowregretError):
    """An object store does not answer, refuses, or holds what is no study's."""


class ClusterError(LowregretError):
    """A cluster does not answer, or a worker of it cannot take part in the study."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A sentence that lists the valid choices, the nearest first when one is near."""
    known = sorted(choices)
    near = get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Valid: {', '.join(known)}."
