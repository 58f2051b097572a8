"""What a notebook shows of a result: the numbers, escaped, and nothing from elsewhere."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

import lowregret
from lowregret.analysis.fits import Estimate
from lowregret.notebook_card import card, number
from lowregret.questions.claim import Statement
from lowregret.questions.judge import Claim, Claims
from lowregret.runs.forecast import Forecast, ForecastedRegret
from lowregret.runs.records import TrialRecord
from lowregret.runs.verdict import MethodResult, Verdict
from lowregret.spec import LoRA, TrialSpec

EVIL = "<img src=x onerror=alert(1)> & 'more' \"still\""


class Read(HTMLParser):
    """Text and tags; every tag is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert {name for name, _ in attrs} <= {"style", "scope"}, "nothing that loads or runs"
        self.tags.append(tag)
        self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def shown(result: Any) -> Read:
    page = result._repr_html_()
    assert len(page) < 20_000
    return Read(page)


def method(name: str, loss: float, regret: float | None) -> MethodResult:
    return MethodResult(
        name=name, best_learning_rate=2e-3, bracketed=True, test_nll=loss, seeds=3, trials=8, tokens=1, seconds=1.0,
        peak_memory_bytes=1, trainable_parameters=1234, regret_nats=regret,
    )  # fmt: skip


def test_text_stays_text_and_empty_parts_are_left_out() -> None:
    found = Read(card(EVIL, [EVIL], [EVIL, "b"], [[EVIL, "2"]], [EVIL]))
    assert found.text.count(EVIL) == 5
    assert "img" not in found.tags
    assert Read(card("title")).tags == ["div", "p"]
    assert number(None) == ""
    assert number(0.00012345, ".3g") == "0.000123"


def test_a_verdict_shows_its_ruling_its_interval_and_its_reasons() -> None:
    lora, full = method("lora:16", 0.75, 0.25), method("full", 0.5, None)
    verdict = Verdict(
        verdict="regret", regret_nats=0.25, regret_percent=50.0, ci95=(0.2, 0.3), tolerance_nats=0.01, reasons=(EVIL,),
        recommendation=None, methods=(lora, full), lora=lora, full=full, base_nll=1.5, regret_learned=0.25,
    )  # fmt: skip
    found = shown(verdict)
    assert "LoRA falls short of full fine-tuning" in found.text
    assert (
        "regret +0.2500 nats per supervised token (95 %: +0.2000 to +0.3000); 25.0% of what FullFT learns" in found.text
    )
    assert found.cells[6:12] == ["lora:16", "0.002", "0.7500", "+0.2500", "3", "1,234"]
    assert EVIL in found.text


def test_a_record_shows_how_it_ended() -> None:
    trial = TrialSpec(method=LoRA(rank=16), learning_rate=1e-3, seed=2)
    found = shown(TrialRecord.of(trial, status="diverged", steps=7, error=EVIL))
    assert "lora:16, learning rate 0.001, seed 2: diverged" in found.text
    assert EVIL in found.text
    assert found.cells[found.cells.index("steps") + 1] == "7"


def test_a_forecast_says_where_nothing_is_forecast() -> None:
    def of(name: str, low: float, high: float) -> ForecastedRegret:
        return ForecastedRegret(
            method=name, share=0.02, share_interval=(low, high), regret_nats=0.03, nats_interval=(low, high),
            chance_low=0.7, at_pilot=0.1, lag=1.5, far=False,
        )  # fmt: skip

    both = of("lora:16", 0.0, 0.04), of("lora:1", -9.0, 9.0)
    found = shown(Forecast(forecasts=both, tolerance=0.05, learned=1.5, step=8, steps=40, cost=0.2, bank="a bank"))
    assert found.cells[4:8] == ["lora:16", "+2.0%", "+0.0% to +4.0%", "70%"]
    assert found.cells[8:] == ["lora:1", "nothing is forecast", "", ""]


def test_claims_show_their_rulings() -> None:
    statement = Statement(key="r", number="R1", sentence=EVIL, statistic="s", unit="nats")
    claim = Claim(statement=statement, ruling="open", estimate=Estimate(value=1.5, low=1.0, high=2.0), note="few seeds")
    found = shown(Claims(kind="rank", claims=(claim,), noise_nats=None, trials={"finished": 9}))
    assert found.cells[4:] == [f"R1 {EVIL}", "open", "1.5", "1 to 2"]
    assert "R1: few seeds" in found.text


@pytest.mark.parametrize("hardware", [None, "H100"])
def test_a_plan_sets_lora_beside_full_fine_tuning(hardware: str | None) -> None:
    found = shown(lowregret.make_plan("qwen3-8b", "builtin:arithmetic", hardware=hardware))
    assert "Full fine-tuning" in found.cells
    assert {"trainable parameters", "learning rate", "memory a device"} <= set(found.cells)
    assert "8.19 B" in found.cells
