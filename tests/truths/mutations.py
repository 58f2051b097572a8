"""Statistics with one thing wrong, held against the worlds: which wrong ones would be taken for right?

    PYTHONPATH=tests python tests/truths/mutations.py

Each module of claims, and each of `analysis` that claims are measured with, is read, and one place in it is changed at
a time: a sign, an extreme, a mean for an extreme, a unit, the wrong end, the wrong method or condition, the two sides
of a difference, the wrong operation, a comparison. The changed code stands in for the right one while the claims are
measured in worlds of which the answer is known. A mutant that rules and measures as the truth says in all of them has
survived. What only makes details, numbers to read beside a claim, is left out.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import math
import tempfile
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lowregret.analysis.envelope import plain_loras
from lowregret.analysis.fits import Estimate, mean
from lowregret.questions.claim import Evidence
from lowregret.questions.evidence import read_evidence
from lowregret.questions.judge import _judged
from lowregret.questions.registry import QUESTIONS, claims, make_question
from truths.simulator import Truth, World, write_study

SHARED = tuple(f"lowregret.analysis.{name}" for name in ("bits", "condition", "envelope", "place", "rates"))
"""What claims of several questions are measured with. `fits` and `edl` are arithmetic, which `tests/unit` holds to
numpy, scipy and values by hand."""
CALLS = {
    "min": "max",
    "max": "min",
    "fmean": "max",
    "pstdev": "fmean",
    "log2": "log",
    "log": "log2",
    "mean": "_worst",
    "sum": "max",
    "at_best": "of",
    "top_rank": "_lowest",
}
"""A call by the name of another: `_worst` is the largest of the values with the interval of their mean, `_lowest` the
method of the lowest rank, and `of` has the trials of a method at all rates."""
DROPPED = ("abs", "exponential")
"""Calls that give way to what they are called with: a magnitude is a signed number, a ratio its logarithm."""
PAIRS = {"difference": 0, "_difference": 1, "_matched": 1, "_share": 1}
"""A call of two alike → the place of the first."""
STEPS = {"best": 1, "log_ratios": 2, "ratio": 2}
"""A call that may name a step → its place: without it the end of the run is meant."""
CONDITIONS = {"facts": "teach", "teach": "elicit", "elicit": "teach"}
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
_DETAILS = ("_bits", "_details", "_level", "departures", "details", "fitted_rate", "rates", "rises")
"""Functions and variables of numbers that no claim is about."""
_ELSEWHERE = ("_t", "diverged", "level", "loose", "unless_loose")
"""What makes intervals, p-values and notes: `tests/unit` holds them to scipy and to what is said of them."""


@dataclass(frozen=True)
class Mutant:
    """One function with one place changed."""

    what: str
    """The function, the change and the expression that was changed."""
    function: types.FunctionType
    code: types.CodeType


def _worst(values: Sequence[float]) -> Estimate | None:
    found = mean(values)
    return None if found is None else found.model_copy(update={"value": max(values)})


def _lowest(condition: Any) -> str:
    return plain_loras(condition)[0].name


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The mutant's code in the function's place."""
    right, known = mutant.function.__code__, mutant.function.__globals__
    known["_worst"], known["_lowest"] = _worst, _lowest
    mutant.function.__code__ = mutant.code
    try:
        yield
    finally:
        mutant.function.__code__ = right
        del known["_worst"], known["_lowest"]


def mutants(name: str) -> Iterator[Mutant]:
    """Of a module, by its full name."""
    module = importlib.import_module(name)
    functions, source = dict(_functions(module)), inspect.getsource(module)
    for qualname, function in functions.items():
        for index, node in enumerate(_places(ast.parse(source), qualname)):
            for number, (what, _) in enumerate(_changes(node, function)):
                tree = ast.parse(source)
                place = _places(tree, qualname)[index]
                instead = list(_changes(place, function))[number][1]
                changed = ast.fix_missing_locations(_Replace(place, instead).visit(tree))
                code = _code(compile(changed, name, "exec", dont_inherit=True), qualname)
                yield Mutant(f"{qualname}: {what}: {ast.unparse(node)}", function, code)


def _functions(module: types.ModuleType) -> Iterator[tuple[str, types.FunctionType]]:
    """By qualified name, those of classes too."""
    for owner in (module, *(one for one in vars(module).values() if isinstance(one, type))):
        for found in vars(owner).values():
            function = getattr(found, "fget", None) if isinstance(found, property) else found
            function = function.func if isinstance(function, cached_property) else function
            if isinstance(function, types.FunctionType) and function.__code__.co_filename == module.__file__:
                yield function.__qualname__, function


def _code(compiled: types.CodeType, qualname: str) -> types.CodeType:
    todo = [compiled]
    while todo:
        code = todo.pop()
        if code.co_qualname == qualname:
            return code
        todo += [part for part in code.co_consts if isinstance(part, types.CodeType)]
    raise LookupError(qualname)


def _places(tree: ast.Module, qualname: str) -> list[ast.AST]:
    """Every node of a function that is part of a statistic, in order; of one that states claims, its measures."""
    scope: Any = tree
    for name in qualname.split("."):
        own = (ast.FunctionDef, ast.ClassDef)
        scope = next(node for node in scope.body if isinstance(node, own) and node.name == name)
    if scope.name in (*_DETAILS, *_ELSEWHERE):
        return []
    if scope.name == "claims" or scope.name.startswith("_of_"):
        lambdas = [node for node in ast.walk(scope) if isinstance(node, ast.Lambda)]
        return [inner for node in lambdas for inner in _collected(node.body)]
    return [inner for node in scope.body for inner in _collected(node)]


def _collected(node: ast.AST) -> Iterator[ast.AST]:
    targets = [node.target] if isinstance(node, ast.AnnAssign | ast.AugAssign) else getattr(node, "targets", [])
    named = {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    if (isinstance(node, ast.keyword) and node.arg == "details") or named & set(_DETAILS):
        return
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in _DETAILS:
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _collected(child)


def _changes(node: ast.AST, function: types.FunctionType) -> Iterator[tuple[str, ast.AST]]:
    """(what was changed, the node instead)."""
    if isinstance(node, ast.Call):
        yield from _calls(node)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield from _operations(node)
    if isinstance(node, ast.Subscript):
        yield from _subscripts(node)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        other = copy.deepcopy(node)
        other.ops[0] = COMPARISONS[type(node.ops[0])]()
        yield f"{type(node.ops[0]).__name__} → {type(other.ops[0]).__name__}", other
    if isinstance(node, ast.Name) and node.id == "FULL" and "condition" in function.__code__.co_varnames:
        yield "FULL → the lowest rank", _expression("_lowest(condition)")
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in CONDITIONS:
        yield f"{node.value} → {CONDITIONS[node.value]}", ast.Constant(CONDITIONS[node.value])


def _calls(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in CALLS:
        other = copy.deepcopy(node)
        if isinstance(other.func, ast.Attribute) and (hasattr(math, CALLS[name]) or name == "at_best"):
            other.func.attr = CALLS[name]
        else:
            other.func = ast.Name(CALLS[name], ast.Load())
        yield f"{name} → {CALLS[name]}", other
    if name in DROPPED:
        yield f"without {name}", node.args[0]
    if name == "over" and isinstance(node.func, ast.Attribute):
        yield "without over", node.func.value
    if name in PAIRS and len(node.args) > PAIRS[name] + 1:
        other = copy.deepcopy(node)
        first = PAIRS[name]
        other.args[first], other.args[first + 1] = other.args[first + 1], other.args[first]
        yield f"{name} turned round", other
    if name in STEPS and len(node.args) > STEPS[name] and not isinstance(node.args[STEPS[name]], ast.Constant):
        other = copy.deepcopy(node)
        other.args[STEPS[name]] = ast.Constant(None)
        yield f"{name} at the end", other


def _operations(node: ast.BinOp) -> Iterator[tuple[str, ast.AST]]:
    other = copy.deepcopy(node)
    other.op = OPERATORS[type(node.op)]()
    yield f"{type(node.op).__name__} → {type(other.op).__name__}", other
    if isinstance(node.op, ast.Sub | ast.Div):
        other = copy.deepcopy(node)
        other.left, other.right = node.right, node.left
        yield f"{type(node.op).__name__} turned round", other


def _subscripts(node: ast.Subscript) -> Iterator[tuple[str, ast.AST]]:
    ends = {"0": "-1", "-1": "0"}
    place = ast.unparse(node.slice)
    if place in ends:
        other = copy.deepcopy(node)
        other.slice = _expression(ends[place])
        yield f"[{place}] → [{ends[place]}]", other
    if ast.unparse(node.value).endswith(".conditions") and not isinstance(node.slice, ast.Constant):
        for end in ends:
            yield f"condition {end}", _expression(f"list({ast.unparse(node.value)}.values())[{end}]")


def _expression(source: str) -> ast.expr:
    return ast.parse(source, mode="eval").body


class _Replace(ast.NodeTransformer):
    def __init__(self, node: ast.AST, instead: ast.AST) -> None:
        self.node, self.instead = node, instead

    def visit(self, node: ast.AST) -> Any:
        return self.instead if node is self.node else self.generic_visit(node)


Studies = Sequence[tuple[World, Evidence[Any]]]


def written(kind: str, worlds: Sequence[World], folder: Path) -> Studies:
    """The worlds of a question as studies that are read again."""
    studies = []
    for index, world in enumerate(worlds):
        home, question = folder / f"{kind}-{index}", make_question(world.question)
        write_study(home, question, question.groups(), world)
        studies.append((world, read_evidence(home)))
    return studies


def is_caught(mutant: Mutant, studies: Studies) -> bool:
    """Whether some claim in some world is measured or ruled otherwise than it is so there, or breaks."""
    with applied(mutant):
        return not all(_is_true(world, evidence) for world, evidence in studies)


def _is_true(world: World, evidence: Evidence[Any]) -> bool:
    try:
        stated = {one.statement.key: one for one in claims(evidence.question)}
        judged = {key: _judged(stated[key].statement, stated[key].measure(evidence)) for key in world.truths}
        return all(_as_it_is(judged[key], truth) for key, truth in world.truths.items())
    except Exception:  # a mutant may break in any way
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


def survivors(name: str, studies: Studies) -> tuple[int, list[str]]:
    """(how many mutants a module has, those that no world tells from the right one)."""
    found = [(mutant.what, is_caught(mutant, studies)) for mutant in mutants(name)]
    return len(found), [what for what, caught in found if not caught]


def module_of(kind: str) -> str:
    return f"lowregret.questions.{kind.replace('-', '_')}.claims"


def main() -> None:
    """Print every survivor, and the counts."""
    from truths.test_truths import worlds_of

    total, left = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        studies = {kind: written(kind, worlds_of(kind), Path(folder)) for kind in QUESTIONS}
        every = [study for own in studies.values() for study in own]
        for name in (*map(module_of, QUESTIONS), *SHARED):
            own = next((studies[kind] for kind in QUESTIONS if module_of(kind) == name), every)
            count, alive = survivors(name, own)
            total, left = total + count, left + len(alive)
            print(f"{name}: {count} mutants, {len(alive)} survive")
            for line in alive:
                print(f"  {line}")
    print(f"{total} mutants, {left} survive")


if __name__ == "__main__":
    main()
