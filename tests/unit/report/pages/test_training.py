"""The page of one training by example."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from lowregret.errors import RecordsError
from lowregret.report.charts.training import gradient_figure, loss_figure
from lowregret.report.pages.html import write_report
from lowregret.runs.atomic import write_json
from lowregret.runs.metrics import append_metric
from lowregret.runs.records import Metric, TrialRecord
from lowregret.spec import FullFT, LoRA, Method, TrialSpec

STEPS = 40
METRICS = [
    Metric(
        step=step,
        tokens=step,
        train_nll=4.0 / step,
        grad_norm=1.0 / step,
        test_nll=5.0 / step if step % 20 == 0 else None,
        seconds=step,
    )
    for step in range(1, STEPS + 1)
]


def folder(home: Path, method: Method, metrics: list[Metric] = METRICS, **changed: Any) -> Path:
    """What `lowregret train` leaves, but for the weights."""
    home.mkdir()
    for metric in metrics:
        append_metric(home / "metrics.jsonl", metric)
    spec = TrialSpec(method=method, learning_rate=2e-3, seed=3)
    record = {
        "id": "a", "method": method.name, "learning_rate": 2e-3, "seed": 3, "status": "finished", "spec": spec,
        "test_nll": 0.125, "test_tokens": 70, "test_examples": 7, "steps": STEPS, **changed,
    }  # fmt: skip
    write_json(home / "trial.json", TrialRecord(**record))
    asked = {"model": "tiny", "data": {"train": "<b>rows</b>.jsonl"}, "objective": {"kind": "sft"}}
    write_json(home / "spec.json", {"command": "lowregret train --out there", "lowregret": "1", "spec": asked})
    return home


@pytest.mark.parametrize(("method", "label"), [(LoRA(rank=4), "LoRA (rank 4)"), (FullFT(), "Full fine-tuning")])
def test_the_page_says_what_came_of_it(method: Method, label: str, tmp_path: Path) -> None:
    page = write_report(folder(tmp_path / "run", method)).read_text(encoding="utf-8")
    assert "<h1>Held-out loss 0.1250 nats per supervised token after 40 steps</h1>" in page
    assert "tiny on &lt;b&gt;rows&lt;/b&gt;.jsonl" in page
    assert re.search(r"Perplexity</\w+>\s*<\w+>1\.133<", page)
    assert "7 examples, 70 supervised tokens" in page
    assert label in unescape(page).replace("\N{NO-BREAK SPACE}", " ")
    assert set(re.findall(r'<figure id="figure-([^"]+)"', page)) == {"steps", "gradients"}
    assert "lowregret train --out there" in page


def test_the_figures_draw_what_was_recorded() -> None:
    chart = loss_figure(METRICS, 0.6).chart.to_dict()
    drawn = json.dumps(chart)
    points = [layer for layer in chart["layer"] if layer["mark"]["type"] == "point"]
    rows = [row for layer in points for row in chart["datasets"][layer["data"]["name"]]]
    assert [(row["x"], row["y"]) for row in rows] == [(20.0, 0.25), (40.0, 0.125)]
    assert "training" in drawn
    assert "held out" in drawn
    gradients = gradient_figure(METRICS, None).chart.to_dict()
    assert "from 1 at 1 to 0.025 at 40" in gradients["description"]


def test_a_training_that_was_never_held_to_anything_has_a_page(tmp_path: Path) -> None:
    home = folder(tmp_path / "run", LoRA(rank=4), [], test_nll=None, test_tokens=0, test_examples=0, steps=2)
    page = write_report(home).read_text(encoding="utf-8")
    assert "<h1>Held-out loss not known after 2 steps</h1>" in page
    assert "Perplexity" not in page


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    home = folder(tmp_path / "run", LoRA(rank=4))
    (home / "trial.json").write_text("{")
    with pytest.raises(RecordsError, match=r"trial\.json"):
        write_report(home)
