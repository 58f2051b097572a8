"""What to type next, for the weights that a run has kept, as escaped HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from lowregret.report.pages.document import section
from lowregret.report.pages.tables import text
from lowregret.runs.atomic import read_record
from lowregret.runs.commands import Command, commands
from lowregret.runs.files import ADAPTER, BEST, BEST_FULL, BEST_LORA, MANIFEST, MODEL, TRIAL
from lowregret.runs.forms import form_of, look
from lowregret.runs.manifest import Manifest
from lowregret.runs.records import TrialRecord

_NOTE = "The weights that this run has kept, and how other programs take them. A click into a command selects it whole."


def use(run: Path, base: str, batch_size: int | None) -> str:
    """The section of a run's folder, of `compare` or `train`, on this base; "" where no weights are kept. RecordsError
    when a record beside the weights is damaged."""
    parts = [
        (run / BEST / BEST_LORA, run / BEST / BEST_LORA / TRIAL),
        (run / BEST / BEST_FULL, run / BEST / BEST_FULL / TRIAL),
        (run / ADAPTER, run / TRIAL),
        (run / MODEL, run / TRIAL),
    ]
    manifest = read_record(Manifest, run / MANIFEST) if (run / MANIFEST).exists() else None
    chats = manifest is None or manifest.chat_template is not None
    body = ""
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
        body += f"<h3>{text(str(folder))}</h3>\n{_listed(commands(shipped))}"
    return section("use", "Use it", f'<p class="note">{_NOTE}</p>\n{body}') if body else ""


def _listed(found: Sequence[Command]) -> str:
    return "".join(
        f'<details class="use"><summary>{text(command.title)}</summary>\n'
        + (f'<p class="note">{text(command.note)}</p>\n' if command.note else "")
        + f'<pre class="command whole" tabindex="0"><code>{escape(command.text)}</code></pre></details>\n'
        for command in found
    )
