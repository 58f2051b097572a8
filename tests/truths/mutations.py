"""Statistics with one thing wrong, held against the worlds: which wrong ones would be taken for right?

    PYTHONPATH=tests python tests/truths/mutations.py

Each claim's module is read, one place in it is changed at a time (a sign, an extreme, a mean for an extreme, a unit,
the wrong end, the wrong operation, a comparison), and its claims are measured in worlds of which the answer is known. A
mutant that rules and measures as the truth says in all of them has survived. What only makes details, numbers to read
beside a claim, is left out.
"""

from __future__ import annotations

import ast
import copy
import inspect
import math
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowregret.analysis.fits import Estimate
from lowregret.questions.claim import Evidence
from lowregret.questions.evidence import read_evidence
from lowregret.questions.judge import _judged
from lowregret.questions.registry import QUESTIONS, make_question
from truths.simulator import Truth, World, write_study

CALLS = {
    "min": "max",
    "max": "min",
    "fmean": "max",
    "pstdev": "fmean",
    "log2": "log",
    "log": "log2",
    "mean": "_worst",
    "sum": "max",
}
"""A call by the name of another. `_worst` is the largest of the values, with the interval of their mean."""
OPERATORS: Mapping[type[ast.operator], type[ast.operator]] = {
    ast.Sub: ast.Add,
    ast.Add: ast.Sub,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
}
COMPARISONS: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt,
    ast.Gt: ast.Lt,
    ast.LtE: ast.Gt,
    ast.GtE: ast.Lt,
}
_HELPERS = """
def _worst(values):
    from lowregret.analysis.fits import mean as _mean
    found = _mean(values)
    return None if found is None else found.model_copy(update={"value": max(values)})
"""


@dataclass(frozen=True)
class Mutant:
    """A module with one place changed."""

    where: str
    what: str
    module: types.ModuleType


_DETAILS = ("_details", "_level", "_bits", "details", "rates", "rises", "gaps", "departures")
"""Functions and variables of numbers that no claim is about."""


def places_of(tree: ast.Module) -> list[ast.AST]:
    """Every node of a statistic, in order."""
    found: list[ast.AST] = []

    def collect(node: ast.AST) -> None:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        named = {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        if isinstance(node, ast.keyword) and node.arg == "details":
            return
        if isinstance(node, ast.FunctionDef) and node.name in _DETAILS:
            return
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and named & set(_DETAILS):
            return
        found.append(node)
        for child in ast.iter_child_nodes(node):
            collect(child)

    for function in statistics_of(tree):
        collect(function)
    return found


def statistics_of(tree: ast.Module) -> list[ast.FunctionDef]:
    """The functions of a module that measure: those that state claims have no statistic in them."""
    stated = ("claims", "_of_")
    return [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith(stated)]


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """(what was changed, the node instead)."""
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in CALLS:
            other = copy.deepcopy(node)
            if isinstance(other.func, ast.Attribute) and hasattr(__import__("math"), CALLS[name]):
                other.func.attr = CALLS[name]
            else:
                other.func = ast.Name(CALLS[name], ast.Load())
            yield f"{name} → {CALLS[name]}", other
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        other = copy.deepcopy(node)
        other.op = OPERATORS[type(node.op)]()
        yield f"{type(node.op).__name__} → {type(other.op).__name__}", other
        if isinstance(node.op, ast.Sub | ast.Div):
            other = copy.deepcopy(node)
            other.left, other.right = node.right, node.left
            yield f"{type(node.op).__name__} turned round", other
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.UnaryOp | ast.Constant):
        ends = {"0": "-1", "-1": "0"}
        place = ast.unparse(node.slice)
        if place in ends:
            other = copy.deepcopy(node)
            other.slice = ast.parse(ends[place], mode="eval").body
            yield f"[{place}] → [{ends[place]}]", other
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        other = copy.deepcopy(node)
        other.ops[0] = COMPARISONS[type(node.ops[0])]()
        yield f"{type(node.ops[0]).__name__} → {type(other.ops[0]).__name__}", other


def mutants(kind: str) -> Iterator[Mutant]:
    """Of a question's claims."""
    name = f"lowregret.questions.{kind.replace('-', '_')}.claims"
    original = sys.modules.get(name) or __import__(name, fromlist=["claims"])
    source = inspect.getsource(original)
    for index, original_node in enumerate(places_of(ast.parse(source))):
        for number, (what, _) in enumerate(_changes(original_node)):
            tree = ast.parse(source)
            node = places_of(tree)[index]
            instead = list(_changes(node))[number][1]
            changed = ast.fix_missing_locations(_Replace(node, instead).visit(tree))
            module = types.ModuleType(f"{name}_mutant")
            sys.modules[module.__name__] = module  # dataclasses look for the module of their annotations
            exec(compile(_HELPERS, "helpers", "exec"), module.__dict__)
            exec(compile(changed, name, "exec"), module.__dict__)
            yield Mutant(f"{kind}:{getattr(node, 'lineno', 0)}", what, module)


class _Replace(ast.NodeTransformer):
    def __init__(self, node: ast.AST, instead: ast.AST) -> None:
        self.node, self.instead = node, instead

    def visit(self, node: ast.AST) -> Any:
        return self.instead if node is self.node else self.generic_visit(node)


def is_caught(mutant: Mutant, studies: list[tuple[World, Evidence[Any]]]) -> bool:
    """Whether some claim in some world is measured or ruled otherwise than it is so there, or breaks."""
    for world, evidence in studies:
        try:
            stated = {one.statement.key: one for one in mutant.module.claims(evidence.question)}
            for key, truth in world.truths.items():
                if not _as_it_is(_judged(stated[key].statement, stated[key].measure(evidence)), truth):
                    return True
        except Exception:
            return True
    return False


def _as_it_is(claim: Any, truth: Truth) -> bool:
    found = claim.estimate
    if truth.holds is None:
        return bool(claim.ruling == "open" and found is not None and found.low is not None)
    if found is None or found.n < 3 or claim.ruling != ("holds" if truth.holds else "does not hold"):
        return False
    return bool(abs(found.value - truth.value) <= truth.within * abs(truth.value)) and is_centred(found)


def is_centred(found: Estimate) -> bool:
    """Whether the value is the middle of its interval, as a mean is and an extreme of several is not."""
    if found.low is None or found.high is None:
        return False
    ends = [found.low, found.value, found.high]
    if found.logarithmic:
        ends = [math.log2(end) for end in ends]
    return abs(ends[0] + ends[2] - 2 * ends[1]) <= 1e-6 * (ends[2] - ends[0]) + 1e-12


def survivors(kind: str, worlds: tuple[World, ...], folder: Path) -> tuple[int, list[str]]:
    """(how many mutants there are, those that no world tells from the right one)."""
    studies = []
    for index, world in enumerate(worlds):
        home, question = folder / f"{kind}-{index}", make_question(world.question)
        write_study(home, question, question.groups(), world)
        studies.append((world, read_evidence(home)))
    found = [(mutant, is_caught(mutant, studies)) for mutant in mutants(kind)]
    return len(found), [f"{mutant.where} {mutant.what}" for mutant, caught in found if not caught]


def main() -> None:
    """Print every survivor, and the counts."""
    from truths.test_truths import worlds_of

    total, left = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for kind in QUESTIONS:
            count, alive = survivors(kind, worlds_of(kind), Path(folder))
            total, left = total + count, left + len(alive)
            print(f"{kind}: {count} mutants, {len(alive)} survive")
            for line in alive:
                print(f"  {line}")
    print(f"{total} mutants, {left} survive")


if __name__ == "__main__":
    main()
