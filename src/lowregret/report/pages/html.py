"""Which page a folder of a compare or of one training gets. A page is a pure function of the records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lowregret.activity import doing
from lowregret.report.reading import StudyRecords, load_study
from lowregret.runs.atomic import write_bytes
from lowregret.runs.files import REPORT, TRIAL
from lowregret.runs.forecast import unsaid


@doing("writing the report")
def write_report(folder: Path, say: Callable[[str], None] = unsaid) -> Path:
    """Write `folder/report.html` from the records of a compare or of one training, atomically; returns its path.

    A forecast that is damaged is said, and left out. Raises RecordsError when the other records are missing or damaged,
    or when the folder cannot be written.
    """
    path = folder / REPORT
    write_bytes(path, (_training(folder) if (folder / TRIAL).is_file() else page(load_study(folder, say))).encode())
    return path


def page(study: StudyRecords) -> str:
    """The whole page of a compare."""
    # Altair takes half a second to import: only who draws waits for it.
    from lowregret.report.pages import losses, rewards

    return rewards.page(study) if study.rewarded else losses.page(study)


def _training(folder: Path) -> str:
    from lowregret.report.pages import training  # as above

    return training.page(folder)
