"""`--json`: the result alone on standard output, whatever the verb; all else is on standard error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

SMALL = "--steps 4 --seeds 1 --batch-size 4 --max-length 64 --max-train 16 --max-eval 8".split()


@pytest.fixture(scope="module")
def answered(run: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A small answer to one question: its folder, and what was printed."""
    folder = tmp_path_factory.mktemp("study") / "early"
    ended = run("study", "early", *SMALL, "--evals", "2", "--ranks", "1,4", "--workers", "1", "--out", folder, "--json")
    assert ended.exit_code == 0, ended.stderr
    assert "filled in" in ended.stderr
    return folder, json.loads(ended.stdout)


def test_a_study_prints_its_claims(answered: tuple[Path, Any]) -> None:
    folder, found = answered
    claims = found["studies"][str(folder)]["claims"]
    assert {"ruling", "statement"} <= set(claims[0])
    assert Path(found["report"]).is_file()


def test_verify_report_and_export_say_what_they_found_and_wrote(
    run: Any, answered: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, _ = answered
    verified = json.loads(run("verify", folder, "--json").stdout)
    assert verified["agrees"]
    assert verified["folders"][0]["lines"]
    written = json.loads(run("report", folder, "--out", tmp_path, "--figures", tmp_path / "figures", "--json").stdout)
    assert Path(written["report"]).is_file()
    assert written["figures"]
    assert all(Path(path).is_file() for path in written["figures"])
    table = json.loads(run("export", folder, "--out", tmp_path / "trials.csv", "--json").stdout)
    assert (table["written"], table["table"]) == (str(tmp_path / "trials.csv"), "trials")
    assert table["rows"] == len((tmp_path / "trials.csv").read_text().splitlines()) - 1


def test_a_difference_is_in_the_json_and_in_the_exit_code(run: Any, answered: tuple[Path, Any], tmp_path: Path) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(answered[0], folder)
    file = folder / "claims.json"
    claims = json.loads(file.read_text())
    claims["noise_nats"] = 0.125
    file.write_text(json.dumps(claims))
    ended = run("verify", folder, "--json")
    found = json.loads(ended.stdout)
    assert ended.exit_code == 1
    assert not found["agrees"]
    assert found["folders"][0]["differences"]


def test_train_prints_its_record_and_takes_a_recipe(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    asked = ("--recipe", "adapter", "--data", "builtin:arithmetic:size=64", "--method", "lora:2", *SMALL[:2])
    ended = run("train", *asked, *SMALL[4:], "--out", out, "--json")
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout) == json.loads((out / "trial.json").read_text())
    assert "filled in" in ended.stderr
    exported = run("export", out / "adapter", "--out", tmp_path / "shipped", "--json")
    assert json.loads(exported.stdout)["method"] == "lora:2"


def test_a_compare_is_exported_as_a_table_or_as_its_best_adapter(run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "compare"
    asked = ("--methods", "lora:2,full", "--data", "builtin:arithmetic:size=64", "--learning-rates", "1e-3,2e-3")
    ended = run("compare", "--model", "tiny", *asked, *SMALL, "--out", folder)
    assert ended.exit_code == 0, ended.stderr
    for table in ("trials", "curves"):
        found = json.loads(run("export", folder, "--out", tmp_path / f"{table}.csv", "--table", table, "--json").stdout)
        lines = (tmp_path / f"{table}.csv").read_text().splitlines()
        assert (found["rows"], lines[1].partition(",")[0]) == (len(lines) - 1, "compare")
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 1 + len(list((folder / "trials").iterdir()))
    assert (
        "has a verdict and no claims" in run("export", folder, "--out", tmp_path / "c.csv", "--table", "claims").stderr
    )
    found = json.loads(run("export", folder, "--out", tmp_path / "shipped", "--json").stdout)
    assert found["method"] == "lora:2"
    weights = "adapter_model.safetensors"
    assert (tmp_path / "shipped" / weights).read_bytes() == (folder / "best" / "lora" / weights).read_bytes()
    assert json.loads(run("verify", folder, "--json").stdout)["agrees"]
    (folder / "verdict.json").unlink()
    unfinished = run("verify", folder)
    assert unfinished.exit_code == 2
    assert "is not finished. Run the same command again: " in unfinished.stderr
