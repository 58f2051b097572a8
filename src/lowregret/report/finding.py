"""Which folders hold studies that can be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lowregret.analysis.settle import comparing_command
from lowregret.errors import RecordsError
from lowregret.questions.registry import QUESTIONS
from lowregret.runs.atomic import read_json
from lowregret.runs.files import CLAIMS, SPEC, STUDY, TRIALS, VERDICT


def find_studies(folders: Sequence[Path], say: Callable[[str], None], *, compares: bool = False) -> list[Path]:
    """The finished studies among these folders and right below them.

    With `compares`, folders of `lowregret compare` are found too. A study that is not finished is left out, and `say`
    told so and what finishes it. RecordsError for a folder without any study, and when none is finished.
    """
    heads = [STUDY, *([VERDICT] if compares else [])]
    found: list[Path] = []
    for folder in folders:
        below = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        own = [path for path in (folder, *below) if any((path / head).is_file() for head in heads)]
        if not own and compares and (folder / SPEC).is_file() and (folder / TRIALS).is_dir():
            raise RecordsError(f"{folder}: is not finished. {_how_to_finish(folder, SPEC)}")
        if not own:
            raise RecordsError(f"{folder}: is no study. Name a folder that `lowregret study` or `compare` has left.")
        found += [path for path in own if path not in found]
    unfinished = [path for path in found if (path / STUDY).is_file() and not (path / CLAIMS).is_file()]
    if len(unfinished) == len(found):
        raise RecordsError("\n".join(f"{path}: is not finished. {_how_to_finish(path)}" for path in unfinished))
    for path in unfinished:
        say(f"{path}: left out, because it is not finished. {_how_to_finish(path)}")
    return sorted((path for path in found if path not in unfinished), key=_order)


def _how_to_finish(folder: Path, file: str = STUDY) -> str:
    head = read_json(folder / file)
    command = head.get("command") if isinstance(head, dict) else None
    if not command:
        return "Run the command that made it again."
    comparing = comparing_command(str(command))
    return f"Run {'the same command again' if comparing == command else 'this'}: {comparing}"


def _order(folder: Path) -> tuple[int, str]:
    kinds = list(QUESTIONS)
    return (kinds.index(folder.name) if folder.name in kinds else len(kinds), str(folder))
