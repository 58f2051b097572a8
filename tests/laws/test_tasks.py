"""What every verifiable reward keeps: right is rewarded and wrong is not, always alike, whatever is said.

A task gets these laws by its entry in `TASKS`: it must bring a right and a wrong completion.
"""

from __future__ import annotations

import copy
import importlib
import math
import pickle
import pkgutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowregret import tasks
from lowregret.errors import SpecError
from lowregret.spec.rl import OWN_PROBLEMS, RL
from lowregret.tasks import Grader, Problem, Task, open_task
from lowregret.tasks.base import TaskEntry
from lowregret.tasks.registry import TASKS, find_entry
from lowregret.tasks.worker import answer


def entry_modules() -> list[str]:
    return [name.removesuffix(".py") for entry in TASKS for name in entry.example.files]


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that holds the files of the tasks' examples."""
    for entry in TASKS:
        for name, content in entry.example.files.items():
            (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in entry_modules():
        sys.modules.pop(name, None)  # of another test's folder


QUICK = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
every_task = pytest.mark.parametrize("entry", TASKS, ids=lambda entry: entry.usage)
GARBAGE = [
    "",
    " ",
    "\0",
    "\ud800",
    "Answer:",
    "Answer: " + "9" * 5000,
    "<answer></answer>",
    "<answer>" * 500,
    "\\boxed{" * 500,
    "####",
    "#### \u0663",
    "$\\frac{1}{0}$",
    "é😀\u202e" * 50,
    "word " * 20000,
]


def opened(entry: TaskEntry) -> tuple[Task, list[Problem], list[Problem]]:
    """The example of a task, its training and its held-out problems; those in rows of a user's data are training."""
    if entry.needs is not None:
        pytest.importorskip(entry.needs)
    task = open_task(entry.example.spelling)
    own = task.problems()
    if own is not None:
        return task, *own
    return task, [task.problem(row, None, None) for row in entry.example.rows], []


@every_task
def test_right_completions_are_rewarded_and_wrong_ones_less(entry: TaskEntry) -> None:
    task, train, test = opened(entry)
    assert train
    for problem in (*train, *test):
        assert task.grade(entry.example.right(problem), problem) >= 1
        assert task.grade(entry.example.wrong(problem), problem) < 1
        if problem.gold is not None:
            assert task.grade(problem.gold, problem) >= 1


@every_task
def test_equal_seeds_give_equal_problems_and_others_others(entry: TaskEntry) -> None:
    _, train, test = opened(entry)
    assert opened(entry)[1:] == (train, test)
    if entry.brings_problems:
        assert open_task(f"{entry.example.spelling},seed=0").problems() == (train, test)
        other = open_task(f"{entry.example.spelling},seed=1").problems()
        assert other is not None
        assert {problem.prompt for problem in other[0]} != {problem.prompt for problem in train}
        assert {problem.prompt for problem in other[1]} != {problem.prompt for problem in test}


@every_task
def test_held_out_problems_are_none_of_the_training_problems(entry: TaskEntry) -> None:
    _, train, test = opened(entry)
    assert not {problem.prompt for problem in train} & {problem.prompt for problem in test}
    assert bool(test) == entry.brings_problems


@every_task
def test_grading_is_a_pure_function(entry: TaskEntry) -> None:
    """Whatever was graded before, by whichever copy of the task; and no problem is changed."""
    task, train, _ = opened(entry)
    before = copy.deepcopy(train)
    said = [(make(problem), problem) for problem in train for make in (entry.example.right, entry.example.wrong)]
    first = [task.grade(completion, problem) for completion, problem in said]
    assert [task.grade(completion, problem) for completion, problem in reversed(said)] == first[::-1]
    other = open_task(entry.example.spelling)
    assert [other.grade(completion, problem) for completion, problem in pickle.loads(pickle.dumps(said))] == first
    assert train == before


@every_task
@QUICK
@given(completion=st.text(max_size=40))
def test_any_text_gets_a_finite_reward_or_a_reason(entry: TaskEntry, completion: str) -> None:
    task, train, _ = opened(entry)
    kind, value = answer(task, completion, train[0], entry.example.spelling)
    assert math.isfinite(value) if kind == "reward" else kind == "failed" and isinstance(value, str)


@every_task
def test_garbage_never_raises_out_of_the_grader_and_is_not_right(entry: TaskEntry) -> None:
    _, train, _ = opened(entry)
    right = entry.example.right(train[0])
    with Grader(entry.example.spelling, time_limit=5.0, failure_reward=-1.0) as grader:
        grades = grader([(said, train[0]) for said in (*GARBAGE, right)])
    assert all(math.isfinite(grade.reward) and grade.reward < 1 for grade in grades[:-1])
    assert grades[-1].reward >= 1
    assert grades[-1].failure is None


@every_task
def test_a_spelling_says_whether_a_task_brings_its_problems(entry: TaskEntry) -> None:
    """The spec must know it without opening the task."""
    spelling = entry.example.spelling
    task, _, _ = opened(entry)
    assert find_entry(spelling) is entry
    assert (task.problems() is not None) == entry.brings_problems == (not entry.example.rows)
    assert RL(task=spelling).own_problems == spelling.startswith(OWN_PROBLEMS) == entry.brings_problems
    if entry.brings_problems:
        with pytest.raises(SpecError, match="brings its own problems"):
            task.problem({"question": "2 + 2", "answer": "4"}, None, None)


def test_each_prefix_of_the_spec_belongs_to_a_task() -> None:
    for prefix in OWN_PROBLEMS:
        assert any(entry.brings_problems and entry.example.spelling.startswith(prefix) for entry in TASKS), prefix


def test_every_task_of_the_folder_is_in_the_registry() -> None:
    modules = [
        importlib.import_module(f"{tasks.__name__}.{info.name}")
        for info in pkgutil.iter_modules(tasks.__path__)
        if info.name != "worker"
    ]
    assert {module.ENTRY.usage for module in modules if hasattr(module, "ENTRY")} == {entry.usage for entry in TASKS}


def test_every_task_is_offered_to_who_names_none() -> None:
    with pytest.raises(SpecError) as caught:
        open_task("no such task")
    assert all(entry.usage in str(caught.value) for entry in TASKS)
