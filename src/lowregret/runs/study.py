"""A study's folder: its trials, its base, and the environments that have run in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowregret.runs.atomic import read_json, read_record, write_json
from lowregret.runs.files import BASE, ENVIRONMENT, TRIAL, TRIALS
from lowregret.runs.records import ExampleLosses, ExampleRewards, TrialRecord


def trial_folder(study: Path, trial: str) -> Path:
    """Where the trial of this id has its files."""
    return study / TRIALS / trial


def read_trials(study: Path) -> list[TrialRecord]:
    """Every trial of a study's folder, by id."""
    return [read_record(TrialRecord, path) for path in sorted((study / TRIALS).glob(f"*/{TRIAL}"))]


def read_examples(path: Path) -> ExampleLosses | ExampleRewards:
    """A trial's examples.json, of either kind."""
    content = read_json(path)
    rewarded = isinstance(content, dict) and "rewards" in content
    return read_record(ExampleRewards, path) if rewarded else read_record(ExampleLosses, path)


def note_base(study: Path, **facts: Any) -> None:
    """Add facts about the base to base.json, which is there."""
    found: dict[str, Any] = read_json(study / BASE)
    if found != found | facts:
        write_json(study / BASE, found | facts)


def note_environment(study: Path, session: dict[str, str | int]) -> None:
    """environment.json: every distinct environment that has run trials of this study, in order."""
    path = study / ENVIRONMENT
    known = read_json(path)["sessions"] if path.exists() else []
    if session not in known:
        write_json(path, {"sessions": [*known, session]})


def environment_of(study: Path) -> dict[str, str | int]:
    """The first session's; what differed in a later one is added as `<key>, session 2`."""
    first, *later = read_json(study / ENVIRONMENT)["sessions"]
    changes = {
        f"{key}, session {number}": value
        for number, session in enumerate(later, start=2)
        for key, value in session.items()
        if first.get(key) != value
    }
    return {**first, **changes}
