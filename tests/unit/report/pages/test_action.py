"""What to do about a verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lowregret.report.pages import action, captions
from lowregret.report.pages.html import page
from lowregret.report.reading import StudyRecords
from lowregret.runs.verdict import IntervalParts, Settling, SettlingOption

PARTS = IntervalParts(
    example_variance=1e-6,
    seed_variance=1e-6,
    rate_variance=0.0,
    degrees_of_freedom=2.0,
    examples=100,
    seeds=3,
    depth=0.0,
    selection=0.0,
)


def left_open(study: StudyRecords, studies: ModuleType, *options: SettlingOption, **changed: Any) -> StudyRecords:
    """The ordinary study, not settled, with what would settle it."""
    changed = {"verdict": "inconclusive", "ci95": (-0.001, 0.02), "interval": PARTS} | changed
    return replace(study, verdict=studies.verdict(settling=Settling(options=options), **changed))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (SettlingOption(seeds=7, seconds=1200.0), "four more seeds, about 20 min"),
        (SettlingOption(seeds=4), "one more seed"),
        (
            SettlingOption(seeds=20, examples=103, seconds=7200.0),
            "17 more seeds and three more held-out examples, about 2 h",
        ),
        (SettlingOption(examples=2100, seconds=30.0), "2,000 more held-out examples, about 30 s"),
    ],
)
def test_what_would_settle_it_is_said_with_its_time(
    study: StudyRecords, studies: ModuleType, option: SettlingOption, said: str
) -> None:
    found = left_open(study, studies, option)
    assert action.more(found, option) == said
    assert captions.plain(found) == f"Not settled: {said}."


def test_the_fastest_way_is_the_first_and_each_has_its_command(study: StudyRecords, studies: ModuleType) -> None:
    slow, fast, unknown = (
        SettlingOption(seeds=5, seconds=900.0),
        SettlingOption(examples=300, seconds=60.0),
        SettlingOption(seeds=9),
    )
    found = left_open(study, studies, unknown, slow, fast)
    steps = action.steps(found)
    assert [step.title for step in steps] == [
        "200 more held-out examples, about 60 s:",
        "Two more seeds, about 15 min:",
        "Six more seeds:",
    ]
    assert steps[1].command == f"{studies.COMMAND.rpartition(' ')[0]} {study.folder} --seeds 5".replace("  ", " ")
    assert captions.plain(found) == "Not settled: 200 more held-out examples, about 60 s."


def test_one_seed_asks_for_more_with_the_time_of_its_trials(study: StudyRecords, studies: ModuleType) -> None:
    one = {"seeds": 1}
    lora, full = studies.result("lora:16", 0.0, (0.0, 0.001), **one), studies.result("full", **one)
    found = replace(study, verdict=studies.verdict(verdict="inconclusive", lora=lora, full=full, methods=(lora, full)))
    (option,) = action.settling(found)
    assert (option.seeds, option.examples) == (4, None)
    assert option.seconds == pytest.approx(3 * (19.4 + 27.9))
    assert captions.plain(found) == "Not settled: three more seeds, about 2.4 min."


def test_without_a_way_the_reason_is_said(study: StudyRecords, studies: ModuleType) -> None:
    loose = studies.result("lora:16", bracketed=False)
    found = left_open(study, studies, lora=loose, reasons=("It is open.", "Try 4e-3 too."))
    assert action.steps(found) == []
    assert captions.plain(found) == captions.headline(found)
    assert action.otherwise(found) == "Try 4e-3 too."
    assert action.otherwise(left_open(study, studies, reasons=())).startswith("No command would")


def test_a_run_by_python_has_no_command_to_give(study: StudyRecords, studies: ModuleType) -> None:
    found = left_open(replace(study, command="compare(...)"), studies, SettlingOption(seeds=4))
    assert action.steps(found) == []


def test_plain_words_of_settled_verdicts(study: StudyRecords, studies: ModuleType) -> None:
    assert captions.plain(study) == "LoRA is as good as full fine-tuning."
    better = studies.result("lora:16", -0.031, (-0.04, -0.02))
    told = replace(study, verdict=studies.verdict(lora=better, methods=(better, studies.result("full"))))
    assert captions.plain(told) == "LoRA is better by 0.0310 nats (5 % of what that learns)."
    worse = studies.result("lora:16", 0.047, (0.04, 0.053))
    told = replace(study, verdict=studies.verdict(verdict="regret", lora=worse))
    assert captions.plain(told) == "LoRA is worse by 0.0470 nats (7.6 % of what that learns)."


def test_the_box_is_the_first_thing_of_the_page(study: StudyRecords, studies: ModuleType) -> None:
    source = page(left_open(study, studies, SettlingOption(seeds=7, seconds=1200.0)))
    body = source.partition("<main>")[2]
    assert body.index("<h1>Not settled: four more seeds, about 20 min.</h1>") < body.index("--seeds 7")
    assert body.index("--seeds 7") < body.index('<dl class="facts">') < body.index("<figure")
    assert "Not settled: the regret" not in body, "it is not said twice that it is not settled"


def test_of_a_settled_verdict_without_weights_it_is_said_how_to_have_some(study: StudyRecords) -> None:
    assert not (Path(study.folder) / "best").exists()
    assert action.steps(study) == []
    assert action.otherwise(study) in page(study)
