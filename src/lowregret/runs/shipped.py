"""What a finished trial has shipped, held against what its record says of it."""

from __future__ import annotations

from pathlib import Path

from lowregret.errors import RecordsError
from lowregret.runs.atomic import read_record
from lowregret.runs.files import TRIAL
from lowregret.runs.manifest import digests
from lowregret.runs.records import TrialRecord


def digest_folder(folder: Path) -> dict[str, str]:
    """File → SHA-256, of all files of an adapter or a model; RecordsError when one cannot be read."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digests({str(path.relative_to(folder)): path for path in files})


def require_shipped(record: TrialRecord, folder: Path, remedy: str) -> None:
    """RecordsError when `folder` does not hold, to the bit, what the trial has shipped; other files may lie there.

    Records of earlier versions do not say what that was.
    """
    if not record.shipped:
        return
    missing = [name for name in record.shipped if not (folder / name).is_file()]
    if missing:
        raise RecordsError(f"{folder / missing[0]}: is gone, which the trial {record.id} has shipped. {remedy}")
    found = digests({name: folder / name for name in record.shipped})
    changed = [name for name, digest in record.shipped.items() if found[name] != digest]
    if changed:
        raise RecordsError(f"{folder / changed[0]}: is not what the trial {record.id} has shipped. {remedy}")


def require_as_shipped(folder: Path) -> None:
    """The same of an adapter or model by the record that lies in it or beside it; nothing where there is none."""
    file = next((file for file in (folder / TRIAL, folder.parent / TRIAL) if file.is_file()), None)
    if file is not None:
        remedy = f"Bring it back as it was; or delete {file} and run the command again that made it."
        require_shipped(read_record(TrialRecord, file), folder, remedy)
