"""A study's folder read as its claims and figures need it. Torch-free.

Only raw records are read (trials, curves, examples, forgetting and timings); what the runner made of them is found
again here, so that a reader need not trust it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from lowregret.analysis.condition import Condition, Trial
from lowregret.errors import RecordsError, SpecError
from lowregret.questions.claim import Evidence, Statement
from lowregret.questions.registry import QUESTIONS, Asked
from lowregret.runs.atomic import DELETE, as_record, read_json
from lowregret.runs.files import BASE, METRICS, STUDY, TIMINGS
from lowregret.runs.measured import read_forgetting, read_timings
from lowregret.runs.metrics import read_metrics
from lowregret.runs.record import Record
from lowregret.runs.records import TrialRecord
from lowregret.runs.spelling import is_older
from lowregret.runs.study import base_facts, group_folder, sessions_of, start_loss, trial_folders, trial_record
from lowregret.spec import FullFT, GroupSpec, Method, build
from lowregret.spec.method import LINEAR_TARGETS


def read_evidence(folder: Path) -> Evidence[Any]:
    """Read a study's folder; RecordsError names the file that is missing or damaged, and the remedy."""
    path = folder / STUDY
    head = stored_question(path)
    try:
        question = build(Asked, {"question": head["question"]}, source=str(path)).question
    except SpecError as error:
        raise RecordsError(f"{error}\nName a folder that this version of `lowregret study` wrote.") from error
    groups = question.groups()
    conditions = {}
    for name in dict.fromkeys(group.condition for group in groups):
        conditions[name] = _condition(folder, name, [group for group in groups if group.condition == name])
    return Evidence(folder, question, str(head.get("command", "")), conditions, read_timings(folder / TIMINGS))


def stored_question(path: Path) -> dict[str, Any]:
    """What a study.json says; RecordsError when that is no question.

    Before 0.3.0 a question did not say which matrices its LoRAs are on: attention and mlp.
    """
    head = read_json(path)
    if not isinstance(head, dict) or not isinstance(head.get("question"), dict):
        raise RecordsError(f"{path}: no field 'question'. Name a folder that `lowregret study` wrote.")
    as_record(_Head, head, path, DELETE)
    asked: dict[str, Any] = head["question"]
    kind = QUESTIONS.get(str(asked.get("kind")))
    if is_older(head.get("lowregret")) and kind is not None and "targets" in kind.model_fields:
        asked = {"targets": list(LINEAR_TARGETS)} | asked
    return {**head, "question": asked}


def stated_claims(folder: Path) -> tuple[Statement, ...]:
    """The claims that a study's folder stated before its run; RecordsError when they are none."""
    path = folder / STUDY
    stated = {"claims": stored_question(path).get("claims") or ()}
    return as_record(_Stated, stated, path, DELETE).claims


class _Head(Record):
    """study.json, beside its question."""

    model_config = ConfigDict(extra="allow")

    lowregret: str | None = None
    command: str | None = None
    claims: tuple[dict[str, Any], ...] | None = None


class _Stated(Record):
    claims: tuple[Statement, ...]


def _condition(folder: Path, name: str, groups: Sequence[GroupSpec]) -> Condition:
    methods: list[Method] = []
    trials: list[Trial] = []
    sessions: list[Mapping[str, Any]] = []
    base: dict[str, Any] = {}
    for group in groups:
        home = group_folder(folder, group)
        if not (home / BASE).exists():
            raise RecordsError(f"{home}: not trained yet. Run the same `lowregret study` again to finish it.")
        own = base_facts(home)
        base |= own
        if own.get("hidden_size") is None:
            raise RecordsError(f"{home / BASE}: does not say the base's 'hidden_size'. {DELETE}")
        start = start_loss(home)
        if start is not None:
            base["start"] = start
        sessions += sessions_of(home)
        asked = {method.name for method in group.methods}
        for path in trial_folders(home):
            record = trial_record(path)
            # a folder may hold more than the question asked last
            rates = group.learning_rates
            fits = record.method in asked and (rates == "search" or record.learning_rate in rates)
            if fits and record.seed < group.seeds and record.status != "running":
                trials.append(read_trial(record, path))
        methods += group.methods
    methods.sort(key=lambda method: isinstance(method, FullFT))
    return Condition(
        name=name,
        spec=groups[0],
        methods=tuple(methods),
        trials=tuple(trials),
        base_nll=base.get("start", math.inf),
        hidden_size=base["hidden_size"],
        base_forgetting=base.get("forgetting_nll"),
        fact_bits=base.get("fact_bits"),
        sessions=tuple(sessions),
    )


def read_trial(record: TrialRecord, home: Path) -> Trial:
    """A trial with its curves, from its folder."""
    metrics = read_metrics(home / METRICS)
    return Trial(
        record=record,
        home=home,
        test={m.step: loss for m in metrics if (loss := m.test_loss) is not None},
        train={m.step: m.train_nll for m in metrics if m.train_nll is not None},
        forgetting_nll=read_forgetting(home),
        samples={m.step: m.rl for m in metrics if m.rl is not None},
    )
