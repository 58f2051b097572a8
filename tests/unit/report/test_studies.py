"""The page of studies: claims first, a figure a question, nothing from the network, nothing a record could break."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet
import pytest

from lowregret.analysis.evidence import read_evidence
from lowregret.errors import RecordsError, SpecError
from lowregret.report.drawing import svg
from lowregret.report.export import export
from lowregret.report.plots import Axis, Series, curves, forest
from lowregret.report.studies import TITLES, find_studies, page, write_page
from lowregret.report.study_figures import figures
from lowregret.report.study_files import write_figures
from lowregret.spec.asked import QUESTIONS, make_question

SMALL: dict[str, dict[str, Any]] = {
    "rank": {"ranks": [1, 4], "sizes": [8], "steps": 16},
    "learning-rate": {"ranks": [1, 4], "steps": 8},
    "short-runs": {"lengths": [10, 20], "steps": 20},
    "early": {"ranks": [1, 4], "steps": 8},
    "batch-size": {"batches": [4, 8], "examples": 16, "ranks": [4]},
    "layers": {"ranks": [4], "steps": 8},
    "capacity": {"ranks": [1, 4], "steps": 8, "people": 4},
    "compute": {"widths": [64], "ranks": [1, 16]},
    "invariance": {"steps": 8},
    "variants": {"steps": 8, "methods": ["lora:4", "lora:4:pissa", "lora:4:dora"]},
    "scaling": {"models": ["tiny-64", "tiny"], "ranks": [1], "steps": 8},
    "moe": {"steps": 8},
    "rl": {"ranks": [1, 4], "steps": 8},
}


@pytest.fixture(scope="session")
def root(load_module: Callable[[Path], ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of each question that nobody trained."""
    fake = load_module(Path(__file__).parents[1] / "study" / "fake_studies.py")
    folder = tmp_path_factory.mktemp("studies")
    for kind, fields in SMALL.items():
        fake.make(folder / kind, make_question({"kind": kind, **fields}))
    return folder


@pytest.mark.parametrize("kind", QUESTIONS)
def test_every_question_has_figures_with_words(root: Path, kind: str) -> None:
    found = figures(read_evidence(root / kind))
    assert found
    assert len({drawn.key for drawn in found}) == len(found)
    for drawn in found:
        assert "Nothing finished" not in json.dumps(drawn.chart.to_dict()) or kind == "rank"
        assert len(drawn.caption) > 60, "a caption says what to see"
        assert drawn.chart.to_dict()["description"]
        for theme in ("light", "dark"):
            text = svg(drawn.chart, theme)
            assert "NaN" not in text
            assert "Infinity" not in text


def test_the_claims_come_first_and_the_studies_in_the_order_of_the_post(root: Path) -> None:
    source = page([read_evidence(folder) for folder in find_studies([root], lambda line: None)])
    places = [source.index(f">{title}</h2>") for title in TITLES.values()]
    assert source.index('id="claims-title"') < min(places)
    assert places == sorted(places)
    claims = sum(len(json.loads((root / kind / "claims.json").read_text())["claims"]) for kind in QUESTIONS)
    assert source.count('<tr class="ruling-') == claims


def test_the_page_needs_no_network_and_has_one_policy(root: Path) -> None:
    source = page([read_evidence(root / "early")])
    assert "default-src 'none'" in source
    assert not re.search(r'(src|href)="https?:', source)


def test_the_page_is_a_function_of_the_records(root: Path, tmp_path: Path) -> None:
    first = write_page([root / "layers"], tmp_path).read_bytes()
    assert write_page([root / "layers"], tmp_path).read_bytes() == first


def test_hostile_text_stays_text(root: Path) -> None:
    path = root / "early" / "study.json"
    before = path.read_text()
    value = json.loads(before)
    value["command"] = value["question"]["model"] = "</pre><script>alert(1)</script>"
    try:
        path.write_text(json.dumps(value))
        assert "<script>alert(1)" not in page([read_evidence(root / "early")])
    finally:
        path.write_text(before)


def test_a_seed_that_diverged_at_a_best_rate_is_on_the_page(root: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(root / "layers", tmp_path / "layers")
    assert "Diverged at a best rate" not in page([read_evidence(folder)])
    run = read_evidence(folder).conditions["main"].at_best("full")[-1]
    record = json.loads((run.home / "trial.json").read_text())
    (run.home / "trial.json").write_text(json.dumps(record | {"status": "diverged", "test_nll": None}))
    said = page([read_evidence(folder)]).partition("Diverged at a best rate, and so in no mean: ")[2]
    assert said.startswith(f"seed {run.record.seed} of full (main), layers.")


def test_a_folder_without_studies_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="is no study"):
        find_studies([tmp_path], lambda line: None)


def test_unfinished_studies_are_left_out_with_what_finishes_them(root: Path, tmp_path: Path) -> None:
    for kind in ("rank", "early", "layers"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "study.json").write_bytes((root / kind / "study.json").read_bytes())
    (tmp_path / "layers" / "claims.json").touch()
    said: list[str] = []
    assert find_studies([tmp_path], said.append) == [tmp_path / "layers"]
    finish = "not finished. Run the same command again: lowregret study fake"
    assert said == [f"{tmp_path / kind}: left out, because it is {finish}" for kind in ("early", "rank")]
    (tmp_path / "layers" / "claims.json").unlink()
    with pytest.raises(RecordsError, match=r"rank: is not finished\. Run the same command again: lowregret study fake"):
        find_studies([tmp_path], said.append)


# --- drawing --------------------------------------------------------------------------------------------------------


def test_names_at_the_ends_of_curves_never_overlap() -> None:
    series = [Series(f"rank {i}", [(1.0, 2.0), (2.0, 1.0 + 1e-6 * i)], i / 9) for i in range(10)]
    chart = curves(series, Axis("x"), Axis("y"), "ten curves that end together").to_dict()
    marks = [layer for layer in chart["layer"] if layer["mark"].get("style") == "name"]
    places = sorted(layer["encoding"]["y"]["value"] for layer in marks)
    assert len(places) == 10
    assert all(b - a >= 14.9 for a, b in itertools.pairwise(places))
    assert 0 <= places[0] <= places[-1] <= chart["height"]


def test_nothing_to_draw_says_so() -> None:
    for chart in (curves([], Axis("x"), Axis("y"), "none"), forest([("a", None, None, None)], "t", "none")):
        assert "Nothing finished" in svg(chart)


def test_figures_of_two_studies_of_one_question_are_both_kept(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "early", tmp_path / "elsewhere")
    files = write_figures([root / "early", tmp_path / "elsewhere"], tmp_path / "figures")
    assert len({file.name for file in files}) == len(files) == len(list((tmp_path / "figures").iterdir()))
    assert {file.name for file in files} >= {"early-curves.svg", "elsewhere-early-curves.svg"}


# --- export ---------------------------------------------------------------------------------------------------------


def test_tables_hold_every_trial_curve_and_claim(root: Path, tmp_path: Path) -> None:
    folders = [root / "early", root / "layers"]
    runs = [run for folder in folders for run in read_evidence(folder).runs]
    assert export(folders, tmp_path / "trials.csv") == len(runs)
    with open(tmp_path / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(float(row["test_nll"]) for row in rows) == sorted(run.loss() for run in runs)
    assert export(folders, tmp_path / "curves.parquet", "curves") == sum(len(run.test) for run in runs)
    found = pyarrow.parquet.read_table(tmp_path / "curves.parquet").to_pylist()
    assert {row["study"] for row in found} == {"early", "layers"}
    assert export(folders, tmp_path / "claims.csv", "claims") == 4


def test_rows_of_two_studies_of_one_question_say_whose_they_are(root: Path, tmp_path: Path) -> None:
    folders = [root / "early", shutil.copytree(root / "early", root.parent / "again" / "early-2")]
    try:
        places = {f"{root.name}/early", "again/early-2"}
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
        shutil.rmtree(root.parent / "again")


def test_rewards_are_exported_as_rewards(root: Path, tmp_path: Path) -> None:
    runs = read_evidence(root / "rl").runs
    export([root / "rl"], tmp_path / "trials.parquet")
    trials = pyarrow.parquet.read_table(tmp_path / "trials.parquet").to_pylist()
    assert sorted(row["test_reward"] for row in trials) == sorted(-run.loss() for run in runs)
    export([root / "rl"], tmp_path / "curves.parquet", "curves")
    curves = pyarrow.parquet.read_table(tmp_path / "curves.parquet").to_pylist()
    assert sorted(row["test_reward"] for row in curves) == sorted(-loss for run in runs for loss in run.test.values())
    assert {row["test_nll"] for row in curves} == {None}
    assert {row["train_reward"] for row in curves} == {0.5}
    optuna = pytest.importorskip("optuna")
    assert export([root / "rl"], tmp_path / "rl.db") == len(runs)
    stored = optuna.load_study(study_name="rl main lora:1", storage=f"sqlite:///{tmp_path / 'rl.db'}")
    assert stored.direction == optuna.study.StudyDirection.MAXIMIZE
    assert stored.best_value == max(-run.loss() for run in runs if run.record.method == "lora:1")


def test_an_unknown_format_lists_the_valid_ones(root: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"\.csv, \.parquet, \.db"):
        export([root / "early"], tmp_path / "trials.xlsx")


def test_an_optuna_storage_has_every_trial(root: Path, tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    assert export([root / "early"], tmp_path / "early.db") == len(read_evidence(root / "early").runs)
    found = optuna.get_all_study_summaries(f"sqlite:///{tmp_path / 'early.db'}")
    assert {summary.study_name for summary in found} == {"early main lora:1", "early main lora:4"}
