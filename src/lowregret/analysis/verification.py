"""`lowregret verify`: claims and verdicts computed again from raw records, and held against what is stored."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowregret.analysis.claims import Claims, judge_study
from lowregret.analysis.evidence import read_evidence
from lowregret.analysis.regret import judge
from lowregret.analysis.statements import Statement, statements
from lowregret.records import ExampleLosses, TrialRecord, Verdict, read_json, read_metrics, read_record
from lowregret.spec import CompareSpec, build

_CLOSE = 1e-9
"""Relative: what summing in another order may do to a mean loss."""


@dataclass(frozen=True)
class Verification:
    """What was compared, and what did not agree."""

    lines: tuple[str, ...]
    differences: tuple[str, ...]


def verify_folder(folder: Path) -> Verification:
    """Verify one study or compare; RecordsError when its records are missing or damaged."""
    lines: list[str] = []
    differences: list[str] = []
    homes = sorted(file.parent for file in folder.glob("**/trials/*/trial.json") if "best" not in file.parts)
    for home in homes:
        differences += _trial(home)
    lines.append(f"{len(homes)} trials: their losses are those of their examples and curves")
    if (folder / "study.json").exists():
        differences += _study(folder, lines)
    else:
        differences += _compare(folder, lines)
    return Verification(tuple(lines), tuple(differences))


def _trial(home: Path) -> Iterator[str]:
    """trial.json against examples.json and metrics.jsonl."""
    record = read_record(TrialRecord, home / "trial.json")
    if record.status != "finished" or record.test_nll is None:
        return
    losses = read_record(ExampleLosses, home / "examples.json")
    again = math.fsum(losses.nll_sums) / max(sum(losses.tokens), 1)
    if not math.isclose(again, record.test_nll, rel_tol=_CLOSE):
        yield f"{home.name}: test_nll is {record.test_nll} in trial.json and {again} by examples.json"
    curve = [metric.test_nll for metric in read_metrics(home / "metrics.jsonl") if metric.test_nll is not None]
    if not curve or not math.isclose(curve[-1], record.test_nll, rel_tol=_CLOSE):
        last = curve[-1] if curve else "missing"
        yield f"{home.name}: test_nll is {record.test_nll} in trial.json and {last} at the end of metrics.jsonl"


def _study(folder: Path, lines: list[str]) -> Iterator[str]:
    evidence = read_evidence(folder)
    stated = tuple(Statement.model_validate(row) for row in read_json(folder / "study.json").get("claims", ()))
    if stated != statements(evidence.question):
        yield "study.json: the claims stated before the run are not those of the question"
    stored, again = read_record(Claims, folder / "claims.json"), judge_study(evidence)
    yield from _differences(stored.model_dump(mode="json"), again.model_dump(mode="json"), "claims.json: ")
    lines.append(f"{len(again.claims)} claims: " + ", ".join(f"{c.statement.key} {c.ruling}" for c in again.claims))


def _compare(folder: Path, lines: list[str]) -> Iterator[str]:
    stored = read_record(Verdict, folder / "verdict.json")
    spec = build(CompareSpec, read_json(folder / "spec.json")["spec"], source=str(folder / "spec.json"))
    homes = sorted(file.parent for file in folder.glob("trials/*/trial.json"))
    records = [read_record(TrialRecord, home / "trial.json") for home in homes]
    losses = {
        home.name: read_record(ExampleLosses, home / "examples.json")
        for home, record in zip(homes, records, strict=True)
        if record.status == "finished"
    }
    base = read_json(folder / "base.json")["test_nll"]
    again = judge(spec, records, losses, base, stored.environment, stored.search.get("rules", ()))
    yield from _differences(stored.model_dump(mode="json"), again.model_dump(mode="json"), "verdict.json: ")
    lines.append(f"verdict: {again.verdict}")


def _differences(stored: Any, again: Any, place: str) -> Iterator[str]:
    if isinstance(stored, dict) and isinstance(again, dict):
        for key in {**stored, **again}:
            yield from _differences(stored.get(key), again.get(key), f"{place}{key} ")
    elif isinstance(stored, list) and isinstance(again, list) and len(stored) == len(again):
        for index, (one, other) in enumerate(zip(stored, again, strict=True)):
            yield from _differences(one, other, f"{place}{index} ")
    elif stored != again:
        yield f"{place}is {stored}, computed again {again}"
