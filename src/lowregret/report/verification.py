"""`lowregret verify`: claims and verdicts computed again from raw records, and held against what is stored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowregret.analysis.decided import decided_reasons, judged_records
from lowregret.analysis.forecast.words import beside
from lowregret.analysis.interval import CONFIDENCE
from lowregret.analysis.regret import judge
from lowregret.errors import RecordsError
from lowregret.questions.evidence import read_evidence, stated_claims
from lowregret.questions.judge import Claims, judge_study
from lowregret.questions.registry import statements
from lowregret.report.reading import stored_verdict
from lowregret.runs.atomic import read_json, read_record
from lowregret.runs.decision import Decision
from lowregret.runs.files import (
    BEST,
    CLAIMS,
    DECISION,
    EXAMPLES,
    FORECAST,
    METRICS,
    SPEC,
    STUDY,
    TRIAL,
    TRIALS,
    VERDICT,
)
from lowregret.runs.forecast import stored_forecast
from lowregret.runs.lock import stored_spec
from lowregret.runs.metrics import read_metrics, require_curve
from lowregret.runs.records import TrialRecord
from lowregret.runs.shipped import require_shipped
from lowregret.runs.spelling import is_older
from lowregret.runs.study import (
    quantised_starts,
    read_costs,
    read_curves,
    read_examples,
    shipped_folder,
    start_loss,
    trial_folders,
    trial_record,
)
from lowregret.runs.verdict import Verdict
from lowregret.spec import CompareSpec, build
from lowregret.strict_json import finite
from lowregret.version import __version__

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
    homes = sorted(file.parent for file in folder.glob(f"**/{TRIALS}/*/{TRIAL}") if BEST not in file.parts)
    records = {home: trial_record(home) for home in homes}
    for home, record in records.items():
        differences += _trial(home, record)
    differences += _one_run(records)
    lines.append(f"{len(homes)} trials: their results are those of their examples and curves")
    if (folder / STUDY).exists():
        differences += _study(folder, lines)
    else:
        differences += _compare(folder, lines)
    return Verification(tuple(lines), tuple(differences))


def _one_run(records: Mapping[Path, TrialRecord]) -> Iterator[str]:
    """Of each folder of trials: all of them are of the same base, data and spec. Earlier versions did not say."""
    first: dict[Path, TrialRecord] = {}
    for home, record in records.items():
        if record.inputs is None:
            continue
        other = first.setdefault(home.parent, record)
        if record.inputs != other.inputs:
            yield f"{home.name}: is of another run (base, data or spec) than {other.id}"


def _trial(home: Path, record: TrialRecord) -> Iterator[str]:
    """trial.json against examples.json and metrics.jsonl."""
    try:
        curve = _curve(home, record)
        if (home / shipped_folder(record)).is_dir():
            require_shipped(record, home / shipped_folder(record), "")
    except RecordsError as error:
        yield str(error).strip()
        return
    if record.status != "finished" or record.test_loss is None:
        return
    field, sign = ("test_nll", 1) if record.test_reward is None else ("test_reward", -1)
    stored = sign * record.test_loss
    found = read_examples(home / EXAMPLES)
    again = sign * math.fsum(found.loss_sums) / max(sum(found.weights), 1)
    if not math.isclose(again, stored, rel_tol=_CLOSE, abs_tol=_CLOSE):
        yield f"{home.name}: {field} is {stored} in {TRIAL} and {again} by {EXAMPLES}"
    if record.search_nll is not None:  # a trial that was judged again has a curve on the first examples only
        field, stored = "search_nll", record.search_nll
    if not curve or not math.isclose(sign * curve[-1], stored, rel_tol=_CLOSE, abs_tol=_CLOSE):
        last = sign * curve[-1] if curve else "missing"
        yield f"{home.name}: {field} is {stored} in {TRIAL} and {last} at the end of {METRICS}"


def _curve(home: Path, record: TrialRecord) -> list[float]:
    """A trial's held-out losses; RecordsError when lines of its steps are missing."""
    steps = record.status == "finished"
    metrics = require_curve(home / METRICS, record.steps) if steps else read_metrics(home / METRICS)
    return [loss for metric in metrics if (loss := metric.shared_loss) is not None]


def _study(folder: Path, lines: list[str]) -> Iterator[str]:
    evidence = read_evidence(folder)
    stated = stated_claims(folder)
    again = judge_study(evidence)
    if is_older(read_json(folder / STUDY).get("lowregret")):
        today = {statement.key for statement in statements(evidence.question)}
        gone = ", ".join(sorted({statement.key for statement in stated} - today)) or "none"
        lines.append(
            f"{len(stated)} claims were stated and judged before 0.3, by other rules; no longer stated: {gone}. "
            + f"By today's: {_rulings(again)}"
        )
        return
    if stated != statements(evidence.question):
        yield f"{STUDY}: the claims stated before the run are not those of the question"
    stored = read_record(Claims, folder / CLAIMS)
    yield from _differences(stored.model_dump(mode="json"), finite(again.model_dump(mode="json")), f"{CLAIMS}: ")
    lines.append(f"{len(again.claims)} claims: {_rulings(again)}")


def _rulings(found: Claims) -> str:
    """Each claim's, what Holm's correction for all of this study leaves of it where that differs, and a caution."""
    said = []
    for claim in found.claims:
        by_holm = "" if claim.corrected in (None, claim.ruling) else f" (by Holm: {claim.corrected})"
        said.append(f"{claim.statement.key} {claim.ruling}{by_holm}")
    return f"{', '.join(said)}. Up to {found.expected_false or 0:.2g} of these may be expected to be false by chance"


def _compare(folder: Path, lines: list[str]) -> Iterator[str]:
    head = stored_spec(folder / SPEC)
    spec = build(CompareSpec, head["spec"], source=str(folder / SPEC))
    stored = stored_verdict(folder, head, spec)
    held_out = (head.get("resolved") or {}).get("held_out")
    homes = trial_folders(folder)
    records = [trial_record(home) for home in homes]
    losses = {
        home.name: read_examples(home / EXAMPLES)
        for home, record in zip(homes, records, strict=True)
        if record.status == "finished"
    }
    base = start_loss(folder)
    confidence = CONFIDENCE
    if stored.decision is not None and stored.decision.looks:
        last = stored.decision.looks[-1]
        names = [method.name for method in stored.methods]
        methods = tuple(method for name in names for method in spec.methods if method.name == name)
        spec = spec.model_copy(update={"methods": methods})
        records, confidence = judged_records(records, names, last.seeds), 1 - last.ruling_error
    again = judge(
        spec,
        records,
        losses,
        base,
        stored.environment,
        stored.search.get("rules", ()),
        curves=read_curves(folder, records),
        costs=read_costs(folder),
        held_out=held_out,
        quantised=quantised_starts(folder),
        confidence=confidence,
    )
    if stored.judged_by is None or _rules(stored.judged_by) != _rules(__version__):
        then = "before 0.3" if stored.judged_by is None else stored.judged_by
        lines.append(f"verdict: {stored.verdict}, by the rules of lowregret {then}; by today's: {again.verdict}")
        return
    if stored.decision is not None:
        yield from _decision(folder, stored, again)
        again = again.model_copy(update={"decision": stored.decision})
    ends = [] if stored.decision is None else decided_reasons(stored.decision, spec.seeds)
    extra = stored.reasons[len(again.reasons) : len(stored.reasons) - len(ends)]
    yield from _forecast(folder, list(extra), again)
    again = again.model_copy(update={"reasons": (*again.reasons, *extra, *ends)})
    yield from _differences(stored.model_dump(mode="json"), finite(again.model_dump(mode="json")), f"{VERDICT}: ")
    lines.append(f"verdict: {again.verdict}")


def _forecast(folder: Path, said: list[str], again: Verdict) -> Iterator[str]:
    """What the verdict says of the forecast against forecast.json and what was measured."""
    try:
        expected = stored_forecast(folder)
    except RecordsError as error:
        yield f"{str(error).partition(' Delete')[0]} What {VERDICT} says of it cannot be computed again"
        return
    true = [] if expected is None else beside(expected, again)
    if said != true:
        told, computed = (" ".join(lines) or "nothing" for lines in (said, true))
        yield (
            f"{VERDICT}: of the forecast it says: {told} By {FORECAST} it is: {computed} (where `forecast` was run "
            "after the verdict, the same `compare` writes the verdict anew)"
        )


def _decision(folder: Path, stored: Verdict, again: Verdict) -> Iterator[str]:
    """The looks at it: the last is that of the trials, and together they have spent no more than they may."""
    assert stored.decision is not None
    kept = read_record(Decision, folder / DECISION)
    yield from _differences(stored.decision.model_dump(mode="json"), kept.model_dump(mode="json"), f"{DECISION}: ")
    if not kept.looks:
        return
    if sum(look.error for look in kept.looks) > kept.error * (1 + _CLOSE):
        yield f"{DECISION}: its looks have spent more than the error of {kept.error:g}"
    last = kept.looks[-1]
    if last.ruling not in ("inconclusive", again.verdict):
        yield f"{DECISION}: its last look says {last.ruling}, computed again {again.verdict}"
    yield from _differences(last.regret, again.regret_nats, f"{DECISION}: the regret at its last look ")


def _rules(version: str) -> list[str]:
    """Judging may change with a minor version."""
    return version.split(".")[:2]


def _differences(stored: Any, again: Any, place: str) -> Iterator[str]:
    if isinstance(stored, dict) and isinstance(again, dict):
        for key in {**stored, **again}:
            yield from _differences(stored.get(key), again.get(key), f"{place}{key} ")
    elif isinstance(stored, list) and isinstance(again, list) and len(stored) == len(again):
        for index, (one, other) in enumerate(zip(stored, again, strict=True)):
            yield from _differences(one, other, f"{place}{index} ")
    elif stored != again:
        yield f"{place}is {stored}, computed again {again}"
