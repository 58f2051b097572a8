"""`MODULE:FUNCTION` or `FILE.py:FUNCTION`: a function of the user's own, `(prompt, completion, row) -> float`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, final

from lowregret.errors import SpecError, did_you_mean
from lowregret.foreign import real_path
from lowregret.tasks.base import Problem, TaskEntry, TaskExample
from lowregret.tasks.parsing import text_column
from lowregret.tasks.source import USAGE, is_function, outside, source_file

_PROMPTS = ("prompt", "question", "problem", "instruction")


@final
class Function:
    """Rows of the user's data, graded by a function that is imported in the grader's process only."""

    def __init__(self, spelling: str) -> None:
        """`MODULE:FUNCTION` or `FILE.py:FUNCTION`."""
        self._spelling = spelling
        self._function: Callable[[str, str, dict[str, Any]], Any] | None = None

    def problems(self) -> None:
        """It grades the user's data."""

    def problem(self, row: Mapping[str, Any], prompt_field: str | None, answer_field: str | None) -> Problem:
        """The column named, or the first of the usual ones; the function gets the whole row."""
        return Problem(text_column(row, prompt_field, _PROMPTS), dict(row))

    def grade(self, completion: str, problem: Problem) -> Any:
        """Whatever the function returns."""
        self.load()
        assert self._function is not None
        return self._function(problem.prompt, completion, dict(problem.row))

    def load(self) -> None:
        """Import it; SpecError when there is none, or it is no function of a file under the working folder."""
        if self._function is not None:
            return
        file = source_file(self._spelling)
        module_name, _, name = self._spelling.rpartition(":")
        try:
            module = _load(file) if module_name.endswith(".py") else importlib.import_module(module_name)
        except Exception as error:  # the module is a program by somebody else: it fails in any way it likes
            raise SpecError(
                f"task {self._spelling!r}: module {module_name!r} cannot be imported ({type(error).__name__}: {error})."
            ) from None
        imported = getattr(module, "__file__", None)
        if imported is None or real_path(Path(imported)) != file:
            raise SpecError(
                f"task {self._spelling!r}: Python takes {module_name} from {imported or 'itself'}, not from {file}. "
                f"Name the file: --task {file.name}:{name}, with its folder."
            )
        found = getattr(module, name, None)
        if not callable(found):
            valid = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise SpecError(
                f"task {self._spelling!r}: {module_name} has no function {name!r}. {did_you_mean(name, valid)}"
            )
        if why := _foreign(found):
            raise SpecError(
                f"task {self._spelling!r}: {name} {why}. Write a function of your own in {file.name} that calls it."
            )
        self._function = found


def _load(file: Path) -> ModuleType:
    """A file as a module; what lies beside it can be imported by it."""
    sys.path.append(str(file.parent))
    name = f"_reward_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look it up
    spec.loader.exec_module(module)
    return module


def _foreign(found: Any) -> str | None:
    """Why what a file calls its own comes from elsewhere, under whatever wrappers; None when it does not."""
    while isinstance(found := inspect.unwrap(found), partial):
        found = found.func
    if not (inspect.isroutine(found) or inspect.isclass(found)):
        found = type(found)  # an object that can be called
    try:
        file = real_path(Path(inspect.getfile(found)))
    except (TypeError, OSError):
        return "belongs to Python or to an installed package"
    return outside(file)


_EXAMPLE = """\
def is_answer(prompt, completion, row):
    return float(completion.strip() == row["answer"])
"""

ENTRY = TaskEntry(
    usage=f"a function of yours as {USAGE}",
    matches=is_function,
    open=Function,
    brings_problems=False,
    example=TaskExample(
        "example_reward:is_answer",
        right=lambda problem: str(problem.row["answer"]),
        wrong=lambda problem: f"not {problem.row['answer']}",
        rows=({"prompt": "2 + 2", "answer": "4"}, {"question": "A word?", "answer": "été", "level": 3}),
        files={"example_reward.py": _EXAMPLE},
    ),
    own_code=True,
)
