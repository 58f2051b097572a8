"""`lowregret verify`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from lowregret.activity import doing
from lowregret.cli import options as o
from lowregret.cli.codes import DIFFERS
from lowregret.cli.command import verb
from lowregret.cli.options import positional
from lowregret.cli.outcome import LIBRARIES, aside, say, say_json
from lowregret.digests import forget_digests


@verb("verify")
def verify(
    *folders: Annotated[
        Path,
        positional(
            "Folders that `lowregret study` or `compare` has left, or one that holds such folders.",
            "FOLDER",
            required=True,
        ),
    ],
    rehash: o.Rehash = False,
    as_json: o.Json = False,
) -> None:
    """Exit code 0 when all agree, 1 when something differs."""
    from lowregret.cli.progress import activities_shown

    with activities_shown(), doing(LIBRARIES):
        from lowregret.report.finding import find_studies
        from lowregret.report.verification import verify_folder
        from lowregret.train.manifest import verify_inputs

    if rehash:
        forget_digests()
    differences = 0
    forms: list[dict[str, Any]] = []
    for folder in find_studies(folders, aside, compares=True):
        with activities_shown(), doing(f"computing {folder} again"):
            found = verify_folder(folder)
            lines, changed = verify_inputs(folder)
        found = replace(found, lines=(*found.lines, *lines), differences=(*found.differences, *changed))
        differences += len(found.differences)
        forms.append({"folder": str(folder), "lines": list(found.lines), "differences": list(found.differences)})
        if as_json:
            continue
        for line in found.lines:
            say(f"{folder}: {line}")
        for line in found.differences:
            say(f"{folder}: DIFFERS: {line}")
    if as_json:
        say_json({"agrees": not differences, "folders": forms})
    if differences:
        raise SystemExit(DIFFERS)
