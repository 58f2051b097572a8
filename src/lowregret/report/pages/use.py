"""What to type next, for the weights that a run has kept."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from lowregret.report.pages.document import section
from lowregret.report.pages.templates import render
from lowregret.runs.atomic import read_record
from lowregret.runs.commands import Command, commands
from lowregret.runs.files import ADAPTER, BEST, BEST_FULL, BEST_LORA, MANIFEST, MODEL, TRIAL
from lowregret.runs.forms import form_of, look
from lowregret.runs.manifest import Manifest
from lowregret.runs.records import TrialRecord


def use(run: Path, base: str, batch_size: int | None) -> Markup:
    """The section of a run's folder, of `compare` or `train`, on this base; empty where no weights are kept.
    RecordsError when a record beside the weights is damaged."""
    found = kept(run, base, batch_size)
    return section("use", "Use it", render("use", kept=list(found.items()))) if found else Markup("")


def kept(run: Path, base: str, batch_size: int | None) -> dict[Path, list[Command]]:
    """The folders of weights in a run's folder, each with what can be done with them."""
    parts = [
        (run / BEST / BEST_LORA, run / BEST / BEST_LORA / TRIAL),
        (run / BEST / BEST_FULL, run / BEST / BEST_FULL / TRIAL),
        (run / ADAPTER, run / TRIAL),
        (run / MODEL, run / TRIAL),
    ]
    manifest = read_record(Manifest, run / MANIFEST) if (run / MANIFEST).exists() else None
    chats = manifest is None or manifest.chat_template is not None
    found = {}
    for folder, file in parts:
        if form_of(folder) is None or not file.is_file():
            continue
        record = read_record(TrialRecord, file)
        shipped = look(
            folder,
            base=base,
            chats=chats,
            stop_texts=record.stop_texts,
            learning_rate=record.learning_rate,
            batch_size=batch_size,
        )
        found[folder] = commands(shipped)
    return found
