"""Tables for other programs hold what the records hold."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pyarrow.parquet
import pytest

from lowregret.errors import SpecError
from lowregret.questions.evidence import read_evidence
from lowregret.report.export import export


def test_tables_hold_every_trial_curve_and_claim(every_study: Path, tmp_path: Path) -> None:
    folders = [every_study / "early", every_study / "layers"]
    trials = [trial for folder in folders for trial in read_evidence(folder).trials]
    assert export(folders, tmp_path / "trials.csv") == len(trials)
    with open(tmp_path / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(float(row["test_nll"]) for row in rows) == sorted(trial.loss() for trial in trials)
    assert export(folders, tmp_path / "curves.parquet", "curves") == sum(len(trial.test) for trial in trials)
    found = pyarrow.parquet.read_table(tmp_path / "curves.parquet").to_pylist()
    assert {row["study"] for row in found} == {"early", "layers"}
    assert export(folders, tmp_path / "claims.csv", "claims") == 4


def test_rows_of_two_studies_of_one_question_say_whose_they_are(every_study: Path, tmp_path: Path) -> None:
    folders = [every_study / "early", shutil.copytree(every_study / "early", every_study.parent / "again" / "early-2")]
    try:
        places = {f"{every_study.name}/early", "again/early-2"}
        for table in ("trials", "curves", "claims"):
            written = export(folders, tmp_path / "rows.parquet", table)
            rows = pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist()
            assert {row["folder"] for row in rows} == places
            assert {row["study"] for row in rows} == {"early"}
            assert len({json.dumps(row) for row in rows}) == written, f"{table}: no two rows are alike"
        export(folders[:1], tmp_path / "rows.parquet")
        assert set(pyarrow.parquet.read_table(tmp_path / "rows.parquet")["folder"].to_pylist()) == {"early"}
        optuna = pytest.importorskip("optuna")
        export(folders, tmp_path / "rows.db")
        names = {found.study_name for found in optuna.get_all_study_summaries(f"sqlite:///{tmp_path / 'rows.db'}")}
        assert names == {f"early ({place}) main {method}" for place in places for method in ("lora:1", "lora:4")}
    finally:
        shutil.rmtree(every_study.parent / "again")


def test_rewards_are_exported_as_rewards(every_study: Path, tmp_path: Path) -> None:
    held = read_evidence(every_study / "rl").trials
    export([every_study / "rl"], tmp_path / "trials.parquet")
    trials = pyarrow.parquet.read_table(tmp_path / "trials.parquet").to_pylist()
    assert sorted(row["test_reward"] for row in trials) == sorted(-trial.loss() for trial in held)
    export([every_study / "rl"], tmp_path / "curves.parquet", "curves")
    curves = pyarrow.parquet.read_table(tmp_path / "curves.parquet").to_pylist()
    assert sorted(row["test_reward"] for row in curves) == sorted(
        -loss for trial in held for loss in trial.test.values()
    )
    assert {row["test_nll"] for row in curves} == {None}
    assert {row["train_reward"] for row in curves} == {0.5}
    optuna = pytest.importorskip("optuna")
    assert export([every_study / "rl"], tmp_path / "rl.db") == len(held)
    stored = optuna.load_study(study_name="rl main lora:1", storage=f"sqlite:///{tmp_path / 'rl.db'}")
    assert stored.direction == optuna.study.StudyDirection.MAXIMIZE
    assert stored.best_value == max(-trial.loss() for trial in held if trial.record.method == "lora:1")


def test_an_unknown_format_lists_the_valid_ones(every_study: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"\.csv, \.parquet, \.db"):
        export([every_study / "early"], tmp_path / "trials.xlsx")


def test_an_optuna_storage_has_every_trial(every_study: Path, tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    assert export([every_study / "early"], tmp_path / "early.db") == len(read_evidence(every_study / "early").trials)
    found = optuna.get_all_study_summaries(f"sqlite:///{tmp_path / 'early.db'}")
    assert {summary.study_name for summary in found} == {"early main lora:1", "early main lora:4"}


def test_the_storage_opens_in_optunas_dashboard(every_study: Path, tmp_path: Path) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    trials = export([every_study / "early"], tmp_path / "early.db")
    app = dashboard.wsgi(f"sqlite:///{tmp_path / 'early.db'}")

    def get(path: str) -> Any:
        """As a browser asks."""
        said: list[str] = []
        environ: dict[str, Any] = {"PATH_INFO": path}
        setup_testing_defaults(environ)
        body = b"".join(app(environ, lambda status, headers, problem=None: said.append(status)))
        assert said == ["200 OK"]
        return json.loads(body)

    studies = get("/api/studies")["study_summaries"]
    assert {study["study_name"] for study in studies} == {"early main lora:1", "early main lora:4"}
    details = [get(f"/api/studies/{study['study_id']}") for study in studies]
    assert sum(len(found["trials"]) for found in details) == trials
    curves = [trial["intermediate_values"] for found in details for trial in found["trials"]]
    assert any(curves)
