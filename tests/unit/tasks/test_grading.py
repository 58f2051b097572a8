"""Reward functions raise, hang, die, print and return nonsense; the run goes on and the sample is named."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lowregret.errors import SpecError
from lowregret.tasks import Grade, Grader, Problem
from lowregret.tasks.grading import AT_ONCE

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


RETURNS = """
import os
from decimal import Decimal
from fractions import Fraction
import numpy as np

class Sly(float):
    def __repr__(self):
        raise ValueError

def value(prompt, completion, row):
    return eval(completion)
"""


@pytest.fixture(scope="module")
def returns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grader]:
    """A reward that is whatever Python the completion is."""
    home, before = tmp_path_factory.mktemp("home"), Path.cwd()
    (home / "returns.py").write_text(RETURNS)
    os.chdir(home)
    try:
        with Grader("returns:value", failure_reward=-1.0, time_limit=10.0) as found:
            yield found
    finally:
        os.chdir(before)


NUMBERS = {
    "True": 1.0,
    "3": 3.0,
    "-1e6": -1e6,
    "Fraction(1, 4)": 0.25,
    "Decimal('0.5')": 0.5,
    "np.float32(0.25)": 0.25,
    "np.int64(2)": 2.0,
    "np.bool_(True)": 1.0,
    "np.array(0.5)": 0.5,
    "Sly(0.5)": 0.5,
}
NO_NUMBERS = [
    "None", "'1'", "b'1'", "1j", "np.complex64(1)", "np.str_('1')", "[1.0]", "np.ones(1)", "{}", "float('nan')",
    "float('-inf')", "1e308", "-1e7", "1000001", "10 ** 400", "10 ** 5000", "Decimal('nan')", "Decimal('1e999')",
    "np.float64('nan')", "np.float32('inf')", "Sly(1e308)", "object()", "value",
]  # fmt: skip


@pytest.mark.parametrize("written", NUMBERS)
def test_numbers_of_every_make_are_rewards(returns: Grader, written: str) -> None:
    assert returns(samples(written)) == [Grade(NUMBERS[written])]


@pytest.mark.parametrize("written", NO_NUMBERS)
def test_what_is_no_finite_number_of_sense_is_the_functions_failure(returns: Grader, written: str) -> None:
    before, found, after = returns(samples("1", written, "1"))
    assert (before, after) == (Grade(1.0), Grade(1.0))
    assert found.reward == -1
    assert found.failure is not None
    assert found.failure.startswith("returns:value returned ")
    assert found.failure.endswith(": a reward is a finite number between -1e+06 and 1e+06")


def test_a_reason_that_cannot_be_written_is_written_otherwise(returns: Grader) -> None:
    (found,) = returns(samples("[][chr(0xD800)]"))
    assert found.failure is not None
    found.failure.encode()
    (found,) = returns(samples("exec('class E(Exception):\\n def __str__(self): 1/0\\nraise E')"))
    assert found.failure == "raised E: without a message"


WRITES = (
    "[os.write(int(n), {line!r}) for n in os.listdir('/proc/self/fd') if 'socket' in os.readlink('/proc/self/fd/'+n)]"
)
LINES = {
    "a pickle that runs": pickle.dumps(pytest.fail),
    "of another number": b'[999999, "reward", 1.0]\n',
    "many": b'[0, "reward", 1.0]\n' * 50,
    "no end": b"[" * 300_000,
    "nested": b"[" * 60_000 + b"\n",
    "infinite": b'[1, "reward", Infinity]\n',
    "another kind": b'[1, "reward"]\n',
}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the attack finds its way by /proc")
@pytest.mark.parametrize("name", LINES)
def test_what_a_completion_says_in_the_graders_name_ends_that_process_only(returns: Grader, name: str) -> None:
    """Whatever is no line of its own is the end of that process; nothing of it is run."""
    written = WRITES.format(line=LINES[name])
    before, _, after = returns(samples("1", written, "1"))
    assert (before, after) == (Grade(1.0), Grade(1.0))
    assert returns(samples("0", "1")) == [Grade(0.0), Grade(1.0)]


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


class Rows(Sequence[tuple[str, Problem]]):
    """Samples of rows as large as a row may be, made when they are asked for."""

    def __init__(self, count: int) -> None:
        self._places = range(count)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: Any) -> Any:
        found = self._places[place]
        return [self[one] for one in found] if isinstance(found, range) else ("4", Problem(f"{found}", row(found)))


def row(number: int) -> dict[str, str]:
    return {"answer": "4", "tests": f"{number}" + "\N{GRINNING FACE}" * 999_000}


def test_rows_that_are_more_than_the_memory_of_grading_are_graded(rewards: None) -> None:
    """The tests of a programming task, say: a million characters of four bytes each, and 280 MB in all."""
    with Grader("my_rewards:reward", failure_reward=-1.0) as grader:
        grader.start()
        process = grader._process
        assert grader(Rows(70)) == [Grade(0.0)] * 70
        assert grader._process is process


@pytest.mark.parametrize("count", [0, 1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 5 * AT_ONCE])
def test_as_many_samples_are_graded_as_there_are_in_order(grader: Grader, count: int) -> None:
    order = [("4", "5", "raises")[number % 3] for number in range(count)]
    found = grader(samples(*order))
    assert [grade.reward for grade in found] == [{"4": 1.0, "5": 0.0, "raises": -1.0}[word] for word in order]


@pytest.mark.parametrize("place", [0, AT_ONCE - 1, AT_ONCE, 2 * AT_ONCE])
def test_the_sample_that_ends_the_process_is_the_one_that_fails(grader: Grader, place: int) -> None:
    order = ["4"] * (2 * AT_ONCE + 1)
    order[place] = "dies"
    found = grader(samples(*order))
    assert [number for number, grade in enumerate(found) if grade.failure] == [place]
