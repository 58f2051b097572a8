"""A study's curves and costs as its folder has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lowregret.runs.atomic import write_json
from lowregret.runs.metrics import append_metric
from lowregret.runs.records import Metric, TrialRecord
from lowregret.runs.study import NO_COSTS, Costs, read_costs, read_curves
from lowregret.spec import LoRA, TrialSpec


@pytest.mark.parametrize(
    ("base", "start"),
    [
        ({"test_nll": 3.0}, {0: 3.0}),
        ({"test_nll": 3.0, "search_nll": 2.5}, {0: 2.5}),
        ({"objective": "rl"}, {}),
        (None, {}),
    ],
    ids=["all judge", "the first judge rates", "rewards", "no base"],
)
def test_a_curve_starts_at_the_base_on_the_examples_that_it_is_of(
    tmp_path: Path, base: dict[str, Any] | None, start: dict[int, float]
) -> None:
    trial = TrialSpec(method=LoRA(rank=1), learning_rate=1e-3, seed=0)
    facts: dict[str, Any] = {"id": "one", "method": trial.method.name, "learning_rate": 1e-3, "seed": 0, "spec": trial}
    (tmp_path / "trials" / "one").mkdir(parents=True)
    for step, loss in ((4, 2.0), (8, 1.5)):
        metric = Metric(step=step, tokens=step, test_nll=loss + 1, search_nll=loss, seconds=1.0)
        append_metric(tmp_path / "trials" / "one" / "metrics.jsonl", metric)
    if base is not None:
        write_json(tmp_path / "base.json", base)
    records = [TrialRecord(**facts, status="finished"), TrialRecord(**(facts | {"id": "two"}), status="pruned")]
    assert read_curves(tmp_path, records) == {"one": {**start, 4: 2.0, 8: 1.5}}


def test_costs_are_those_that_were_noted_and_none_in_folders_of_before(tmp_path: Path) -> None:
    assert read_costs(tmp_path) == NO_COSTS
    write_json(tmp_path / "base.json", {"multiply_adds": {"full": 3.0}, "price_per_hour": 2.5})
    assert read_costs(tmp_path) == Costs({"full": 3.0}, 2.5)
