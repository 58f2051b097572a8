"""Reward functions raise, hang, die, print and return nonsense; the run goes on and the sample is named."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lowregret.errors import SpecError
from lowregret.tasks import Grade, Grader, Problem

REWARDS = """
import os, sys, time

def reward(prompt, completion, row):
    print("noise on standard output")
    if completion == "raises":
        raise ValueError("no such thing")
    if completion == "hangs":
        while True:
            pass
    if completion == "sleeps":
        time.sleep(60)
    if completion == "dies":
        os._exit(3)
    if completion == "exits":
        sys.exit(1)
    if completion == "none":
        return None
    if completion in ("nan", "inf", "-0.25"):
        return float(completion)
    return prompt == "2 + 2" and completion == row["answer"]

number = 5
"""


@pytest.fixture
def rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the current folder, which is not on sys.path."""
    (tmp_path / "my_rewards.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def grader(rewards: None) -> Iterator[Grader]:
    with Grader("my_rewards:reward", time_limit=1.0, failure_reward=-1.0) as found:
        yield found


def samples(*completions: str) -> list[tuple[str, Problem]]:
    return [(completion, Problem("2 + 2", {"answer": "4"})) for completion in completions]


def test_a_function_gets_prompt_completion_and_row(grader: Grader) -> None:
    assert grader(samples("4", "5", "-0.25")) == [Grade(1.0), Grade(0.0), Grade(-0.25)]
    assert grader([]) == []


def test_samples_that_fail_are_named_and_scored_as_stated_and_concern_no_other(grader: Grader) -> None:
    bad = {
        "raises": "raised ValueError: no such thing",
        "hangs": "took longer than 1 s",
        "sleeps": "took longer than 1 s",
        "dies": "ended the process that grades",
        "exits": "raised SystemExit: 1",
        "none": "my_rewards:reward returned NoneType None: a reward is",
        "nan": "my_rewards:reward returned nan: a reward is a finite",
        "inf": "my_rewards:reward returned inf: a",
    }
    order = [word for name in bad for word in ("4", name)]
    found = grader(samples(*order, "4"))
    assert [grade.reward for grade in found] == [1.0, -1.0] * len(bad) + [1.0]
    for grade, reason in zip(found[1::2], bad.values(), strict=True):
        assert grade.failure is not None
        assert grade.failure.startswith(reason)
    assert all(grade.failure is None for grade in found[::2])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("my_rewards:rewards", "Did you mean 'reward'"),
        ("my_rewards:number", "no function 'number'"),
        ("my_reward:reward", "there is no my_reward.py or my_reward/__init__.py"),
    ],
)
@pytest.mark.usefixtures("rewards")
def test_a_function_that_is_not_there_is_an_error(task: str, message: str) -> None:
    with Grader(task) as grader, pytest.raises(SpecError, match=message):
        grader.start()


def test_nothing_outlives_the_grader(grader: Grader) -> None:
    grader.start()
    assert grader._process is not None
    number = grader._process.pid
    grader.close()
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_many_samples_are_graded_fast() -> None:
    """A hundred thousand a minute at least: grading must not be what training waits for."""
    with Grader("builtin:arithmetic") as grader:
        grader.start()
        began = time.perf_counter()
        found = grader([("Answer: 4", Problem("What is 2 + 2?", {"answer": 4}))] * 2000)
        assert time.perf_counter() - began < 1.2
    assert found == [Grade(1.0)] * 2000
