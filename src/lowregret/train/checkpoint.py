"""A trial's resumable state: one file, replaced atomically, with everything that the loop needs to go on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from lowregret.engine import Engine
from lowregret.errors import RecordsError

NAME = "checkpoint.safetensors"


@dataclass(frozen=True)
class Progress:
    """Where a trial stands."""

    step: int = 0
    """Optimizer steps done."""
    tokens: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0


def save_checkpoint(engine: Engine, policy: str, folder: Path, progress: Progress) -> None:
    """Weights, moments and progress, atomically."""
    engine.save(policy, folder / NAME, {key: repr(value) for key, value in asdict(progress).items()})


def load_checkpoint(engine: Engine, policy: str, folder: Path) -> Progress:
    """Restore the policy and return its progress; a fresh Progress when there is no checkpoint."""
    path = folder / NAME
    if not path.exists():
        return Progress()
    metadata = engine.load(policy, path)
    try:
        return Progress(
            step=int(metadata["step"]),
            tokens=int(metadata["tokens"]),
            seconds=float(metadata["seconds"]),
            peak_memory_bytes=int(metadata["peak_memory_bytes"]),
        )
    except (KeyError, ValueError) as error:
        raise RecordsError(
            f"{path}: the checkpoint is damaged ({error}). Delete it and run the command again: the trial restarts."
        ) from error


def delete_checkpoint(folder: Path) -> None:
    """A finished trial needs no checkpoint."""
    for name in (NAME, f"{NAME}.partial"):  # the second is what a kill leaves of one being written
        (folder / name).unlink(missing_ok=True)
