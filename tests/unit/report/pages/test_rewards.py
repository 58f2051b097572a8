"""Pages of reinforcement learning: rewards in words and figures, transcripts as text, failures listed."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from lowregret.errors import RecordsError
from lowregret.report.charts import rewards
from lowregret.report.pages.html import write_report
from lowregret.report.pages.rewards import compare_figures
from lowregret.report.pages.transcripts import failures, read_lines, transcripts
from lowregret.report.reading import load_study
from lowregret.runs.atomic import write_json
from lowregret.runs.metrics import append_metric
from lowregret.runs.records import Metric, RewardMetric, TrialRecord
from lowregret.runs.verdict import MethodResult, Recommendation, Verdict
from lowregret.spec import RL, CompareSpec, DataSpec, FullFT, LoRA, Method, TrialSpec
from lowregret.version import __version__

TASK = "builtin:arithmetic:difficulty=5"
STEPS = 20
BASE = 0.25
HOSTILE = "</pre><script>alert(1)</script>"
SIZES = {"lora:1": 1_000, "lora:16": 16_000, "full": 300_000}
BEST = {"lora:1": 4e-3, "lora:16": 4e-3, "full": 5e-4}
END = {"lora:1": 0.86, "lora:16": 0.91, "full": 0.89}


def samples(step: int) -> RewardMetric:
    return RewardMetric(
        reward=0.5,
        pass_rate=step / STEPS,
        length=40 + step,
        truncated=0.0,
        entropy=1 / (1 + step),
        groups=8,
        dropped_groups=2,
        bits=10.0,
    )


def write_trial(home: Path, method: Method, rate: float, seed: int, **changed: Any) -> TrialRecord:
    """A trial whose reward rises in a straight line, with transcripts at its first and last step."""
    home.mkdir(parents=True)
    end = END[method.name] - 0.1 * abs(rate / BEST[method.name] - 1) + 0.01 * seed
    for step in range(STEPS + 1):
        reward = BASE + (end - BASE) * step / STEPS if step % 10 == 0 else None
        taken = samples(step) if step else None
        append_metric(
            home / "metrics.jsonl", Metric(step=step, tokens=step, test_reward=reward, rl=taken, seconds=step)
        )
    lines = [
        {
            "step": step,
            "prompt": f"What is {i} + 1?",
            "completion": f"said at {step} {HOSTILE}",
            "reward": float(step > 0),
        }
        for step in (0, 10, STEPS)
        for i in range(2)
    ]
    (home / "transcripts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    fields: dict[str, Any] = {
        "id": home.name,
        "method": method.name,
        "learning_rate": rate,
        "seed": seed,
        "status": "finished",
        "spec": TrialSpec(method=method, learning_rate=rate, seed=seed),
        "test_reward": end,
        "steps": STEPS,
        "tokens": 1000,
        "seconds": 2.0,
        "peak_memory_bytes": 10**8,
        "trainable_parameters": SIZES[method.name],
        "checkpoint_bytes": 4 * SIZES[method.name],
    }
    record = TrialRecord(**(fields | changed))
    write_json(home / "trial.json", record)
    return record


def result(name: str, regret: float | None, ci95: tuple[float, float] | None) -> MethodResult:
    return MethodResult(
        name=name,
        best_learning_rate=BEST[name],
        bracketed=True,
        test_nll=None,
        test_reward=END[name],
        seeds=2,
        trials=4,
        tokens=1000,
        seconds=2.0,
        peak_memory_bytes=10**8,
        trainable_parameters=SIZES[name],
        checkpoint_bytes=4 * SIZES[name],
        regret_reward=regret,
        ci95=ci95,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compare of three methods by reward, one trial diverged, some samples that could not be graded."""
    root = tmp_path_factory.mktemp("rl")
    methods = (LoRA(rank=1), LoRA(rank=16), FullFT())
    objective = RL(task=TASK)
    asked = CompareSpec(
        model="tiny", data=DataSpec(train=TASK, overlong="drop"), methods=methods, objective=objective, steps=STEPS
    )
    write_json(
        root / "spec.json",
        {"command": "lowregret compare", "lowregret": __version__, "spec": asked.model_dump(mode="json")},
    )
    for method in methods:
        best = BEST[method.name]
        for rate, seed in ((best / 2, 0), (best, 0), (best, 1), (best * 2, 0)):
            write_trial(root / "trials" / f"{method.name.replace(':', '-')}-{rate:g}-{seed}", method, rate, seed)
    lost = root / "trials" / "full-0.1-0"
    write_trial(lost, FullFT(), 0.1, 0, status="diverged", test_reward=None, error="not finite")
    failed = {"step": 3, "prompt": "p", "completion": HOSTILE, "reward": 0.0, "error": f"raised ValueError {HOSTILE}"}
    (lost / "failures.jsonl").write_text(json.dumps(failed) + "\n")
    lora, full = result("lora:16", -0.02, (-0.03, -0.01)), result("full", None, None)
    verdict = Verdict(
        verdict="low_regret",
        regret_nats=None,
        regret_percent=None,
        ci95=(-0.03, -0.01),
        tolerance_nats=None,
        reasons=("because",),
        recommendation=Recommendation(
            method="lora:16", rank=16, learning_rate=4e-3, batch_size=8, targets=("attention", "mlp")
        ),
        methods=(result("lora:1", 0.03, (0.01, 0.05)), lora, full),
        lora=lora,
        full=full,
        regret_reward=-0.02,
        tolerance_reward=0.02,
        base_reward=BASE,
    )
    write_json(root / "verdict.json", verdict)
    return root


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def keys(page: str) -> set[str]:
    """Of the figures on a page."""
    return set(re.findall(r'<figure id="figure-([^"]+)">', page))


@pytest.fixture(scope="module")
def charts(folder: Path) -> dict[str, Any]:
    """The figures of the compare, by key, as specifications."""
    return {figure.key: figure.chart.to_dict() for figure in compare_figures(load_study(folder))}


def rows(chart: dict[str, Any], mark: str) -> list[dict[str, Any]]:
    layers = [layer for layer in chart["layer"] if layer["mark"]["type"] == mark]
    return [row for layer in layers for row in chart["datasets"][layer["data"]["name"]]]


def test_the_headline_and_the_facts_are_in_reward(page: str) -> None:
    said = unescape(re.sub(r"<[^>]+>", " ", page.partition("<body>")[2].partition("<script>")[0])).replace("\xa0", " ")
    assert "LoRA is better by 0.0200 of reward." in said
    assert "perplexity" not in said
    assert "Choose LoRA (rank 16): it ends 0.0200 of reward above full fine-tuning" in said
    assert "Before training" in said
    assert "0.2500" in said
    assert "Test reward" in said
    assert "nats per supervised token" not in said
    assert "NLL" not in said


def test_every_figure_of_a_compare_is_there(page: str) -> None:
    assert keys(page) == {"regret", "steps", "rates", "length", "entropy", "pass-rate", "dropped", "bits", "cost"}
    assert len(page.encode()) < 400_000


def test_rewards_are_drawn_the_right_way_up(folder: Path, charts: dict[str, Any]) -> None:
    study = load_study(folder)
    drawn = rows(charts["rates"], "line")
    assert sorted((row["x"], row["y"]) for row in drawn) == sorted(
        (t.learning_rate, t.test_reward) for t in study.trials if t.seed == 0 and t.status == "finished"
    )
    ends = [row["tip"] for row in rows(charts["steps"], "point") if row.get("tip", "").startswith("rank 16: ")]
    assert ends[-1] == f"rank 16: {END['lora:16'] + 0.005:.3g} at {STEPS}", "the mean over two seeds"


def test_what_a_figure_finds_is_in_its_description(charts: dict[str, Any]) -> None:
    assert "rank 16 goes from 0.25 at 0 to 0.915 at 20" in charts["steps"]["description"]
    assert "rank 1: best at 4e-3" in charts["rates"]["description"]
    assert "LoRA (rank 16): −0.0200 (−0.0300 to −0.0100), within" in charts["regret"]["description"]


def test_bits_are_summed_over_the_run_and_set_against_two_a_parameter(page: str, charts: dict[str, Any]) -> None:
    drawn = {row["tip"].partition(":")[0]: (row["x"], row["y"]) for row in rows(charts["bits"], "point")}
    assert drawn["rank 1"] == (2 * SIZES["lora:1"], 10.0 * STEPS)
    assert drawn["FullFT"] == (2 * SIZES["full"], 10.0 * STEPS)
    assert f"rank 1: 200 of 2 k bits (10{chr(0xA0)}%)" in unescape(page)


def test_transcripts_stand_side_by_side_as_text(folder: Path, page: str) -> None:
    assert "<script>alert" not in page
    assert page.count('<details class="sample"') == 4, "two problems of the best LoRA and of FullFT"
    found = transcripts("t", folder / "trials" / "lora-1-0.004-0")
    assert [found.count(f"said at {step} ") for step in (0, 10, STEPS)] == [2, 0, 2]
    assert found.index("said at 0") < found.index(f"said at {STEPS}")
    assert "reward 0 → 1" in found


def test_failures_of_the_reward_function_are_listed_only_where_there_are_any(folder: Path, page: str) -> None:
    assert "1 sample could not be graded: 1 × raised ValueError" in unescape(page)
    assert failures([("a", folder / "trials" / "lora-1-0.004-0")]) == ""


def test_a_damaged_line_is_named_and_a_torn_one_left_out(tmp_path: Path) -> None:
    path = tmp_path / "transcripts.jsonl"
    path.write_text('{"step": 0, "prompt": "p"}\n{"step": 1, "pro')
    assert [row["step"] for row in read_lines(path)] == [0]
    path.write_text('{"step": 0}\n{"st\n')
    with pytest.raises(RecordsError, match=r"transcripts\.jsonl:2: damaged"):
        read_lines(path)


def test_one_training_has_a_page_of_its_own(tmp_path: Path) -> None:
    home = tmp_path / "run"
    write_trial(home, LoRA(rank=1), 4e-3, 0)
    asked = {"model": "tiny", "objective": {"kind": "rl", "task": TASK}}
    write_json(home / "spec.json", {"command": "lowregret train", "lowregret": __version__, "spec": asked})
    page = write_report(home).read_text(encoding="utf-8")
    assert f"<h1>Held-out reward 0.2500 → 0.8600 in {STEPS} steps</h1>" in page
    assert keys(page) == {"steps", "length", "entropy", "pass-rate", "dropped", "bits"}
    assert "Transcripts, before and after" in page


def test_entropy_of_steps_is_the_mean_over_seeds() -> None:
    seeds = tuple(rewards.Seed({}, {step: samples(step + more) for step in (1, 2)}, 10) for more in (0, 2))
    chart = rewards.sampled([rewards.Arm("rank 1", 0.5, seeds)], rewards.REWARD, lambda m: m.length, "length").to_dict()
    assert [(row["x"], row["y"]) for row in rows(chart, "line")] == [(1.0, 42.0), (2.0, 43.0)]
