"""The shape of the source: no import circle, and no file of a run folder named outside its room."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

from lowregret.runs import files

SOURCE = Path(__file__).parents[2] / "src" / "lowregret"
NAMES = sorted(value for name, value in vars(files).items() if name.isupper() and "." in value)
"""The files of a run folder; its folders have everyday words for names."""


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    """One circle of a graph of imports, if there is any."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return None


def test_no_two_files_import_each_other_in_a_circle() -> None:
    """Imports inside functions and under TYPE_CHECKING count."""
    graph = grimp.build_graph("lowregret", exclude_type_checking_imports=False, cache_dir=None)
    found = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    assert sum(map(len, found.values())) > 500, "the graph is empty"
    assert circle(found) is None


def test_a_circle_would_be_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) is not None
    assert circle({"a": {"b", "c"}, "b": {"c"}}) is None


def spoken(tree: ast.Module) -> Iterator[ast.Constant]:
    """The text of a module that is no docstring: of attributes, too, which stand alone as a statement."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node


@pytest.mark.parametrize(
    "path", [p for p in modules() if "runs" not in p.parts], ids=lambda p: str(p.relative_to(SOURCE))
)
def test_a_run_folders_files_are_named_in_one_place(path: Path) -> None:
    hits = [
        f"{path.relative_to(SOURCE)}:{node.lineno}: {name}"
        for node in spoken(ast.parse(path.read_text(encoding="utf-8")))
        for name in NAMES
        if name in str(node.value)
    ]
    assert not hits, "take the name from lowregret.runs.files:\n" + "\n".join(hits)


@pytest.mark.parametrize("room", ["analysis", "cli", "questions", "report", "study", "train", "watch"])
def test_who_works_in_a_run_folder_spells_no_path(room: str) -> None:
    """`folder / "name"`: a new file gets its name in runs/files.py."""
    hits = [
        f"{path.relative_to(SOURCE)}:{node.lineno}: {ast.unparse(node)}"
        for path in sorted((SOURCE / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
        if isinstance(node.right, ast.Constant) and isinstance(node.right.value, str)
    ]
    assert not hits, "give it a name in lowregret.runs.files:\n" + "\n".join(hits)
