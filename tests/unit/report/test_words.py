"""Numbers and verdicts as a reader would say them."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.report import StudyRecords, words


@given(st.floats(1e-9, 999))
def test_a_rate_is_right_to_three_digits(value: float) -> None:
    assert float(words.rate(value)) == pytest.approx(value, rel=5.1e-3)


@given(st.floats(0, 9e14))
def test_a_size_never_shows_four_digits_before_its_unit(value: float) -> None:
    number, unit = words.size(value).split(" ")
    assert float(number) < 1000
    scale = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert float(number) * scale == pytest.approx(value, rel=5.1e-3, abs=0.01)


@pytest.mark.parametrize(
    ("value", "said"),
    [(2e-4, "2e-4"), (2.83e-4, "2.83e-4"), (0.0005, "5e-4"), (1.0, "1e0"), (9.996e-5, "1e-4")],
)
def test_rates(value: float, said: str) -> None:
    assert words.rate(value) == said


def test_units() -> None:
    assert words.seconds(19.42) == "19.4 s"
    assert words.seconds(600) == "10 min"
    assert words.seconds(9000) == "2.5 h"
    assert words.count(983_424) == "983 k"
    assert words.count(999_999) == "1 M"
    assert words.signed(-0.00119) == "−0.0012"


def headline(study: StudyRecords, studies: ModuleType, **changed: Any) -> str:
    return words.headline(replace(study, verdict=studies.verdict(**changed)))


def test_headline_of_low_regret(study: StudyRecords) -> None:
    assert words.headline(study) == "Choose LoRA (rank 16): it matches full fine-tuning within the tolerance."


def test_headline_of_a_better_lora_says_better(study: StudyRecords, studies: ModuleType) -> None:
    better = studies.result("lora:16", -0.031, (-0.04, -0.02))
    said = headline(study, studies, lora=better, methods=(better, studies.result("full")))
    assert said == "Choose LoRA (rank 16): it ends 0.0310 nats (2.4 %) below full fine-tuning."


def test_headline_speaks_of_the_method_recommended(study: StudyRecords, studies: ModuleType) -> None:
    better, small = studies.result("lora:16", -0.031, (-0.04, -0.02)), studies.result("lora:1", 0.001, (-0.001, 0.002))
    advice = studies.verdict().recommendation.model_copy(update={"method": "lora:1", "rank": 1})
    said = headline(study, studies, lora=better, methods=(better, small), recommendation=advice)
    assert said == "Choose LoRA (rank 1): it matches full fine-tuning within the tolerance."


def test_headline_of_regret(study: StudyRecords, studies: ModuleType) -> None:
    worse = studies.result("lora:16", 0.047, (0.04, 0.053))
    said = headline(study, studies, verdict="regret", lora=worse, methods=(worse, studies.result("full")))
    assert said.startswith("Choose full fine-tuning: LoRA (rank 16) ends 0.0470 nats (3.6 %) above it")


def test_headline_without_an_answer_never_says_choose(study: StudyRecords, studies: ModuleType) -> None:
    loose = studies.result("lora:16", bracketed=False)
    across = headline(study, studies, verdict="inconclusive", ci95=(-0.001, 0.02), recommendation=None)
    nothing = headline(study, studies, verdict="inconclusive", regret_nats=None, ci95=None, lora=None, full=None)
    unbracketed = headline(study, studies, verdict="inconclusive", lora=loose)
    seed = headline(study, studies, verdict="inconclusive", lora=studies.result("lora:16", 0.0, (0.0, 0.001), seeds=1))
    assert seed == "Not settled: one seed says nothing of the noise between seeds."
    assert across == "Not settled: the regret of LoRA (rank 16) may lie on either side of the tolerance."
    assert nothing == "Not settled: no regret could be measured."
    assert unbracketed == "Not settled: the best learning rate of LoRA (rank 16) is not bracketed."


def test_rate_caption_gives_brackets_and_ratio(study: StudyRecords) -> None:
    said = words.rate_caption(study)
    assert "Full fine-tuning does best at 3e-4 (worse at 9.6e-5 and at 9.6e-4)." in said
    assert "3.33× that of full fine-tuning" in said


def test_cost_caption_gives_shares(study: StudyRecords) -> None:
    assert "70 % of the time, 65 % of the peak memory" in words.cost_caption(study)
