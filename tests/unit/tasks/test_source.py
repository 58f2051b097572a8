"""A reward function is one of a file under the working folder, and a run knows it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowregret.errors import SpecError
from lowregret.tasks import Grade, Grader, Problem, reward_source
from lowregret.tasks.source import is_function, source_file

OWN = "def reward(prompt, completion, row):\n    return len(completion)\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "work"
    (found / "rewards").mkdir(parents=True)
    (found / "rewards" / "__init__.py").write_text("")
    (found / "rewards" / "length.py").write_text(OWN)
    (tmp_path / "outside.py").write_text(OWN)
    monkeypatch.chdir(found)
    return found


@pytest.mark.parametrize("task", ["rewards.length:reward", "rewards/length.py:reward", "./rewards/length.py:reward"])
@pytest.mark.usefixtures("folder")
def test_a_function_is_named_by_its_module_or_its_file(task: str) -> None:
    with Grader(task) as grader:
        assert grader([("four", Problem("?"))]) == [Grade(4.0)]


@pytest.mark.parametrize(
    "task",
    ["os:system", "cProfile:run", "builtins:exec", "numpy:sum", "lowregret.tasks.worker:main", "../outside.py:reward"],
)
@pytest.mark.usefixtures("folder")
def test_what_is_installed_or_elsewhere_is_no_reward(task: str) -> None:
    with pytest.raises(SpecError, match=r"working folder.*--task"):
        source_file(task)
    with Grader(task) as grader, pytest.raises(SpecError, match="working folder"):
        grader.start()


def test_links_are_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "linked.py").symlink_to(tmp_path / "outside.py")
    with pytest.raises(SpecError, match="is not under the working folder"):
        source_file("linked:reward")
    (folder / "inside.py").symlink_to(folder / "rewards" / "length.py")
    assert source_file("inside:reward") == (folder / "rewards" / "length.py").resolve()


def test_packages_that_are_installed_under_the_working_folder_are_no_code_of_the_users(folder: Path) -> None:
    (folder / "site-packages").mkdir()
    (folder / "site-packages" / "theirs.py").write_text(OWN)
    with pytest.raises(SpecError, match="belongs to Python or to an installed package"):
        source_file("site-packages/theirs.py:reward")


@pytest.mark.parametrize(
    "content",
    [
        "from os import system as reward",
        "from subprocess import run as reward",
        "from subprocess import Popen as reward",
        "from functools import partial\nimport os\nreward = partial(os.system)",
        "import functools, shutil\nreward = functools.lru_cache(shutil.rmtree)",
        "import operator\nreward = operator.itemgetter(1)",
        "reward = print",
    ],
)
def test_a_name_for_what_is_installed_is_no_function_of_the_users(folder: Path, content: str) -> None:
    (folder / "mine.py").write_text(content)
    with Grader("mine:reward") as grader, pytest.raises(SpecError, match=r"reward belongs to Python.*that calls it"):
        grader.start()


@pytest.mark.parametrize(
    "content",
    [
        OWN.replace("def", "import functools\n@functools.lru_cache\ndef").replace("row", "row=None"),
        f"import functools\n{OWN}\nreward = functools.partial(reward)",
        "class Length:\n    def __call__(self, *given):\n        return len(given[1])\nreward = Length()",
        "reward = lambda prompt, completion, row: len(completion)",
    ],
)
def test_a_function_may_be_wrapped(folder: Path, content: str) -> None:
    (folder / "mine.py").write_text(content)
    with Grader("mine:reward") as grader:
        grader.start()


def test_a_file_named_as_one_of_pythons_modules_is_named_as_a_file(folder: Path) -> None:
    (folder / "random.py").write_text(OWN)
    with Grader("random:reward") as grader, pytest.raises(SpecError, match=r"Name the file: --task random.py:reward"):
        grader.start()
    with Grader("random.py:reward") as grader:
        assert grader([("four", Problem("?"))]) == [Grade(4.0)]


@pytest.mark.parametrize(
    ("task", "is_one"),
    [("a:b", True), ("a.b:c", True), ("d/a.py:b", True), ("builtin:a", False), ("gym:a", False), ("math", False)],
)
def test_which_spellings_are_code(task: str, is_one: bool) -> None:
    assert is_function(task) == is_one
    if not is_one:
        assert reward_source(task) == {}


def test_the_source_is_the_file_and_what_it_imports_from_the_working_folder(folder: Path) -> None:
    (folder / "main.py").write_text(f"import math, helper\nfrom rewards import length\n{OWN}")
    (folder / "helper.py").write_text("def late():\n    import rewards.deep\n")
    (folder / "rewards" / "deep.py").write_text("from . import length\nfrom .other import x\nimport main\n")
    (folder / "unused.py").write_text("")
    found = reward_source("main:reward")
    names = ["helper.py", "rewards/__init__.py", "rewards/deep.py", "rewards/length.py"]
    assert list(found) == ["main.py", *names]
    for name in ("main.py", *names):
        before = (folder / name).read_text()
        (folder / name).write_text(before + "\n")
        assert reward_source("main.py:reward") != found, name
        (folder / name).write_text(before)
        assert reward_source("main.py:reward") == found
    (folder / "unused.py").write_text("# changed")
    assert reward_source("main:reward") == found
    assert reward_source("gym:countdown") == {}


def test_a_file_that_is_no_python_is_named(folder: Path) -> None:
    (folder / "broken.py").write_text("def reward(:")
    with pytest.raises(SpecError, match=r"broken.py cannot be read"):
        reward_source("broken:reward")


def test_nothing_is_imported_to_know_the_source(folder: Path) -> None:
    (folder / "loud.py").write_text(f"open('ran', 'w')\n{OWN}")
    assert reward_source("loud:reward")
    assert not (folder / "ran").exists()
