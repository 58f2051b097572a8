"""Which of what lies in a folder is shipped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowregret.errors import RecordsError, SpecError
from lowregret.runs.verdict import Verdict
from lowregret.ship.winner import find, of_adapters

ADVICE = {"method": "lora:4", "rank": 4, "learning_rate": 1e-3, "batch_size": 8, "targets": None}


@pytest.fixture
def compared(tmp_path: Path) -> Callable[..., Path]:
    """`compared(advice)`: a compare's folder with both winners and a verdict that recommends this."""

    def make(advice: dict[str, Any] | None) -> Path:
        run = tmp_path / "run"
        for kind, file in (("lora", "adapter_config.json"), ("full", "config.json")):
            (run / "best" / kind).mkdir(parents=True)
            (run / "best" / kind / file).write_text("{}")
        (run / "spec.json").write_text(json.dumps({"spec": {"model": "tiny", "methods": ["lora:4", "full"]}}))
        verdict = Verdict(
            verdict="inconclusive" if advice is None else "low_regret", regret_nats=0.0, regret_percent=0.0, ci95=None,
            tolerance_nats=None, reasons=(), recommendation=advice, methods=(), lora=None, full=None,
        )  # fmt: skip
        (run / "verdict.json").write_text(verdict.model_dump_json())
        return run

    return make


def test_what_the_verdict_recommends(compared: Callable[..., Path]) -> None:
    run = compared(ADVICE)
    winner = find(run, None, None)
    assert (winner.adapters, winner.model, winner.run) == (((run / "best" / "lora", 1.0),), "tiny", run)
    assert (winner.home, winner.kind) == (run, "lora")
    assert winner.verdict is not None


def test_full_fine_tuning_where_that_is_recommended(compared: Callable[..., Path]) -> None:
    run = compared({**ADVICE, "method": "full", "rank": None})
    winner = find(run, None, None)
    assert (winner.adapters, winner.model, winner.base) == ((), str(run / "best" / "full"), "tiny")
    assert (find(run, None, "lora").kind, find(run / "best" / "lora", None, None).home) == ("lora", run)


def test_nothing_is_recommended_yet(compared: Callable[..., Path]) -> None:
    run = compared(None)
    with pytest.raises(SpecError, match=r"recommends nothing yet\. Say lora or full"):
        find(run, None, None)
    assert find(run, None, "full").kind == "full"


def test_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    winner = find(tmp_path, "base", None)
    assert (winner.model, winner.run, winner.home) == ("base", None, tmp_path)
    with pytest.raises(RecordsError, match="holds no run with a result"):
        find(tmp_path.parent / tmp_path.name / "..", None, None)


def test_several_adapters_are_of_no_run(compared: Callable[..., Path]) -> None:
    best = compared(ADVICE) / "best" / "lora"
    assert of_adapters("tiny", [(best, 1.0)]).run == best.parent.parent
    assert of_adapters("tiny", [(best, 0.5), (best, 0.5)]).run is None
