"""`lowregret forecast`, from pilots to the comparison that goes on from them, and `lowregret bank`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

ASKED = (
    "--model tiny --data builtin:biographies:size=8,wordings=2 --max-length 64 --max-eval 12 --methods full,lora:4 "
    "--learning-rates 5e-4,2e-3,8e-3 --steps 16 --batch-size 4 --evals 8 --seeds 2 --prune off"
).split()


@pytest.fixture(scope="module")
def forecasted(run: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with its pilots, and what the command printed."""
    out = tmp_path_factory.mktemp("forecast") / "out"
    ended = run("forecast", *ASKED, "--out", out, "--json", "--budget", "30%")
    assert ended.exit_code == 0, ended.stderr
    return out, json.loads(ended.stdout)


def steps(out: Path) -> dict[str, list[int]]:
    return {
        file.parent.name: [json.loads(line)["step"] for line in file.read_text().splitlines()]
        for file in out.glob("trials/*/metrics.jsonl")
    }


def test_every_trial_is_trained_to_the_same_step_and_a_number_comes_with_its_interval(forecasted: Any) -> None:
    out, found = forecasted
    assert found["step"] == 4
    assert len(steps(out)) == 6
    assert all(taken == [1, 2, 3, 4] for taken in steps(out).values())
    (regret,) = found["forecasts"]
    assert regret["method"] == "lora:4"
    assert regret["share_interval"][0] < regret["share"] < regret["share_interval"][1]
    assert 0 < regret["chance_low"] < 1
    assert 0.1 < found["cost"] < 0.2
    assert json.loads((out / "forecast.json").read_text()) == found


def test_compare_goes_on_from_the_pilots_and_its_page_shows_both(run: Any, forecasted: Any) -> None:
    out, found = forecasted
    again = run("forecast", *ASKED, "--out", out, "--budget", "30%")
    assert again.exit_code == 0, again.stderr
    assert "lora:4: " in again.stdout
    assert "In the pilots it is" in again.stdout
    before = {file: file.read_bytes() for file in out.glob("trials/*/metrics.jsonl")}
    ended = run("compare", *ASKED, "--out", out)
    assert ended.exit_code == 0, ended.stderr
    assert all(file.read_bytes().startswith(curve) for file, curve in before.items()), "a pilot was trained again"
    assert len(steps(out)) == 8
    assert all(taken == list(range(1, 17)) for taken in steps(out).values())
    assert not list(out.rglob("checkpoint.safetensors"))
    page = (out / "report.html").read_text()
    assert "Forecast" in page
    assert ("<strong>none</strong>" in page) == ("nothing is forecast" in again.stdout)
    bank = out.parent / "own.jsonl"
    added = run("bank", "add", out, "--bank", bank, "--json")
    assert json.loads(added.stdout)["comparisons"] == 1, added.stderr
    assert run("bank", "add", out, "--bank", bank).stdout.endswith("1 comparison of your own\n")
    listed = json.loads(run("bank", "list", "--bank", bank, "--json").stdout)
    assert listed["own"] == 1
    entry = json.loads(bank.read_text())
    assert "tiny" not in bank.read_text()
    assert [method["name"] for method in entry["methods"]] == ["full", "lora:4"]
    assert entry["fact_bits"] == pytest.approx(8 * 25)
    # A comparison says nothing of itself: with the bank that holds it the forecast is the same.
    same = run("forecast", *ASKED, "--out", out, "--json", "--budget", "30%", "--bank", bank)
    assert json.loads(same.stdout)["forecasts"] == found["forecasts"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--budget", "80%"], "up to 50%, such as 10% or 0.2"),
        (["--budget", "soon"], "--budget 'soon'"),
        (["--budget", "5%", "--evals", "3"], "--budget 50%"),
        (["--bank", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--objective", "rl", "--task", "math"], "no regret in reward is forecast"),
        (["--methods", "full:muon,lora:4"], "add it to --methods"),
    ],
)
def test_what_cannot_be_forecast_is_told_with_the_remedy(run: Any, tmp_path: Path, flags: list[str], said: str) -> None:
    ended = run("forecast", *ASKED[:-2], *flags, "--out", tmp_path / "out")
    assert ended.exit_code == 2
    assert said in ended.stderr
    assert not list(tmp_path.glob("out/trials/*/trial.json"))


def test_the_free_price_trains_nothing(run: Any, tmp_path: Path) -> None:
    ended = run("forecast", *ASKED, "--out", tmp_path / "out", "--json", "--budget", "free")
    assert ended.exit_code == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["step"], found["cost"]) == (0, 0.0)
    (regret,) = found["forecasts"]
    low, high = regret["share_interval"]
    assert low < high
    assert regret["regret_nats"] is None
    assert steps(tmp_path / "out") == {}
    assert json.loads((tmp_path / "out/forecast.json").read_text()) == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add"], "lowregret bank add RUN"),
        (["drop", "x"], "lowregret bank list"),
        (["add", "nowhere"], "no finished comparison"),
    ],
)
def test_a_bank_that_is_asked_for_something_else_says_what_there_is(run: Any, words: list[str], said: str) -> None:
    ended = run("bank", *words)
    assert ended.exit_code == 2
    assert said in ended.stderr


def test_a_damaged_bank_is_named_by_its_line(run: Any, tmp_path: Path) -> None:
    bank = tmp_path / "own.jsonl"
    bank.write_text('{"version": 1}\n')
    ended = run("bank", "list", "--bank", bank)
    assert ended.exit_code == 2
    assert f"{bank}:1: damaged" in ended.stderr


@pytest.fixture
def ended(run: Any, forecasted: Any, tmp_path: Path) -> Path:
    """A comparison beside whose measurement a forecast is shown."""
    out = Path(shutil.copytree(forecasted[0], tmp_path / "out"))
    stored = json.loads((out / "forecast.json").read_text())
    stored["forecasts"][0] |= {"share": 0.2, "share_interval": [0.1, 0.3], "nats_interval": [0.01, 0.03]}
    (out / "forecast.json").write_text(json.dumps(stored))
    assert run("compare", *ASKED, "--out", out).exit_code == 0
    return out


def test_what_a_verdict_says_of_its_forecast_is_computed_again(run: Any, ended: Path) -> None:
    agreed = run("verify", ended)
    assert agreed.exit_code == 0, agreed.stdout
    verdict = ended / "verdict.json"
    told, changed = verdict.read_text(), json.loads(verdict.read_text())
    assert changed["reasons"][-1].startswith("Forecast by pilots of 4 steps: a regret of +20.0%")
    changed["reasons"][-1] = changed["reasons"][-1].replace("+20.0%", "+21.0%")
    for reasons in (changed["reasons"], changed["reasons"][:-1], [*json.loads(told)["reasons"], "It was foreseen."]):
        verdict.write_text(json.dumps(changed | {"reasons": reasons}))
        seen = run("verify", ended)
        assert seen.exit_code == 1
        assert "verdict.json: of the forecast it says: " in seen.stdout
    verdict.write_text(told)
    (ended / "forecast.json").unlink()
    gone = run("verify", ended)
    assert gone.exit_code == 1
    assert "By forecast.json it is: nothing" in gone.stdout


def test_a_damaged_forecast_stops_nothing_but_is_named(run: Any, ended: Path) -> None:
    (ended / "forecast.json").write_text('{"forecasts": []}')
    for command in (["compare", *ASKED, "--out", ended], ["report", ended]):
        went_on = run(*command)
        assert went_on.exit_code == 0, went_on.stderr
        assert (went_on.stdout + went_on.stderr).count("no forecast is shown: ") == 1
    seen = run("verify", ended)
    assert seen.exit_code == 1
    assert f"{ended / 'forecast.json'}: field 'tolerance'" in seen.stdout
