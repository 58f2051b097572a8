"""Rank 0 leads: what it calls, all do; what goes wrong on all, goes on; what goes wrong on one, ends all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gloo import together
from led import program
from lowregret.engine import AdamParams, Engine
from lowregret.engine.parallel.lead import Lead
from lowregret.spec import LoRA


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    folder = tmp_path_factory.mktemp("led")
    return together(3, "led", program, folder, str(folder), False), folder


def test_what_rank_0_makes_all_make(ranks: tuple[list[dict[str, Any]], Path]) -> None:
    found, folder = ranks
    assert found[0]["rank"] == 0, "the result is rank 0's"
    assert [(folder / f"made{rank}").read_text() for rank in range(3)] == ["engine\n" * 2] * 3


def test_an_engine_that_rank_0_lets_go_of_goes_everywhere(ranks: tuple[list[dict[str, Any]], Path]) -> None:
    assert ranks[0][0]["kept"] == [1, 1, 1]


def test_it_trains_as_one_process(ranks: tuple[list[dict[str, Any]], Path], bases: ModuleType) -> None:
    from lowregret.data.batches import collate

    engine, batch = Engine(bases.small_base("qwen3"), device="cpu", precision="float32"), collate(bases.examples(4, 1))
    engine.add_policy("a", LoRA(rank=2), seed=1)
    loss = float(engine.forward_backward({"a": batch})["a"].loss)
    norm = engine.optim_step({"a": AdamParams(1e-3)})["a"]
    found = ranks[0][0]
    assert found["loss"] == pytest.approx(loss, rel=1e-6)
    assert found["norm"] == pytest.approx(norm, rel=1e-5)
    assert found["after"] == pytest.approx(float(engine.forward({"a": batch})["a"].loss), rel=1e-5)


def test_memory_that_one_lacks_all_lack(ranks: tuple[list[dict[str, Any]], Path]) -> None:
    """So that the next pass is smaller for all; and the training goes on."""
    assert "1 of 3 devices" in ranks[0][0]["memory"]


def test_what_all_refuse_is_refused_and_no_more(ranks: tuple[list[dict[str, Any]], Path]) -> None:
    assert ranks[0][0]["refused"] == "all alike"


def test_what_one_alone_meets_ends_all(ranks: tuple[list[dict[str, Any]], Path]) -> None:
    found = ranks[0]
    assert "rank 1 could not do what others could: LowregretError: this rank alone" in found[0]["apart"]
    assert found[0]["broken"]
    assert all("this rank alone" in other["ended"] for other in found[1:])


def test_what_one_alone_meets_inside_a_pass_ends_all(tmp_path: Path) -> None:
    found = together(3, "led", program, tmp_path, str(tmp_path), True)
    assert "rank 2 could not do what others could: ValueError: no such loss" in found[0]["apart"]
    assert found[0]["broken"]
    assert all("no such loss" in other["ended"] for other in found[1:])


@pytest.mark.parametrize("what", ["pass", "step"])
def test_memory_that_one_lacks_in_the_middle_of_an_exchange_ends_all(what: str) -> None:
    """The others wait for its weights, and cannot be told: its process ends, and rank 0 shows what it said."""
    folder = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(folder / "led.py"), what],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "rank 1 ended with code 2" in done.stdout, done.stderr
    assert "MemoryError: no room for it" in done.stdout
    assert "lower --micro-batch-size" in done.stdout


def test_ctrl_c_in_a_call_leaves_a_lead_that_makes_no_further_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """And while ranks compare how they fared they are within the call still: who watches them goes by it."""
    lead, within = Lead(0, 2), []
    monkeypatch.setattr(lead, "_send", lambda told: None)
    monkeypatch.setattr(lead, "_compare", lambda problem: within.append(lead.inside))
    assert lead.call(len, ("ab",), {}) == 2
    assert (within, lead.inside, lead.broken) == ([True], False, False)

    def pressed() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lead.call(pressed, (), {})
    assert (lead.inside, lead.broken) == (False, True)
