"""Verdicts as a reader would say them, and what to see in figures."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

from lowregret.report.pages import captions
from lowregret.report.reading import StudyRecords
from lowregret.runs.verdict import Lag


def headline(study: StudyRecords, studies: ModuleType, **changed: Any) -> str:
    return captions.headline(replace(study, verdict=studies.verdict(**changed)))


def test_headline_of_low_regret(study: StudyRecords) -> None:
    assert captions.headline(study) == "Choose LoRA (rank 16): it matches full fine-tuning within the tolerance."


def test_headline_of_a_better_lora_says_better(study: StudyRecords, studies: ModuleType) -> None:
    better = studies.result("lora:16", -0.031, (-0.04, -0.02))
    said = headline(study, studies, lora=better, methods=(better, studies.result("full")))
    assert said == "Choose LoRA (rank 16): it ends 0.0310 nats (5 % of what that learns) below full fine-tuning."


def test_headline_speaks_of_the_method_recommended(study: StudyRecords, studies: ModuleType) -> None:
    better, small = studies.result("lora:16", -0.031, (-0.04, -0.02)), studies.result("lora:1", 0.001, (-0.001, 0.002))
    advice = studies.verdict().recommendation.model_copy(update={"method": "lora:1", "rank": 1})
    said = headline(study, studies, lora=better, methods=(better, small), recommendation=advice)
    assert said == "Choose LoRA (rank 1): it matches full fine-tuning within the tolerance."


def test_headline_and_caption_tell_the_steps_of_the_lora_that_was_judged(
    study: StudyRecords, studies: ModuleType
) -> None:
    lag = Lag(factor=1.31, low=1.12, high=1.58, extrapolated=True, trend="closes")
    said = headline(study, studies, lag=lag)
    assert said.endswith("within the tolerance; for the same loss it needs 1.3 times the steps.")
    caption = captions.lag_caption(replace(study, verdict=studies.verdict(lag=lag)))
    assert "LoRA (rank 16) needs 1.3 times the steps of full fine-tuning (95 % interval 1.1 to 1.6)" in caption
    assert "The gap closes" in caption
    told = headline(study, studies, lag=lag.model_copy(update={"low": 0.9}))
    assert told.endswith("within the tolerance."), "an interval that holds 1 is no lag to headline"
    none = captions.lag_caption(replace(study, verdict=studies.verdict(lag=Lag(note="2 evaluations are too few."))))
    assert none.endswith("2 evaluations are too few.")


def test_headline_of_regret(study: StudyRecords, studies: ModuleType) -> None:
    worse = studies.result("lora:16", 0.047, (0.04, 0.053))
    said = headline(study, studies, verdict="regret", lora=worse, methods=(worse, studies.result("full")))
    assert said.startswith(
        "Choose full fine-tuning: LoRA (rank 16) ends 0.0470 nats (7.6 % of what that learns) above it"
    )


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
    said = captions.rate_caption(study)
    assert "Full fine-tuning does best at 3e-4 (worse at 9.6e-5 and at 9.6e-4)." in said
    assert "3.33× that of full fine-tuning" in said


def test_cost_caption_gives_shares(study: StudyRecords) -> None:
    assert "70 % of the time, 65 % of the peak memory" in captions.cost_caption(study)
