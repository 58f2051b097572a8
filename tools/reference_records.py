"""The pages of the reference that are made of source alone: the package's public names, and the records' fields.

`python tools/reference.py` writes them with the others. Nothing is imported: docstrings are read from the files.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "lowregret"

NAMES = (
    ("plan/api.py", "make_plan"),
    ("api.py", "compare"),
    ("api.py", "fine_tune"),
    ("api.py", "forecast_regret"),
    ("api.py", "run_study"),
    ("api.py", "load_base"),
    ("engine/engine.py", "Engine"),
    ("engine/optim/adamw.py", "AdamParams"),
    ("engine/sampling/draw.py", "SamplingParams"),
    ("engine/sampling/draw.py", "Completion"),
    ("engine/result.py", "PassResult"),
)
"""(file, name): what `lowregret` and `lowregret.engine` give to programs."""

RECORDS = (
    ("trials/ID/trial.json", "records.py", ("TrialRecord",)),
    ("trials/ID/metrics.jsonl, a line a step", "records.py", ("Metric", "RewardMetric")),
    ("trials/ID/examples.json", "records.py", ("ExampleLosses", "ExampleRewards")),
    ("verdict.json", "verdict.py", ("Verdict", "MethodResult", "Lag", "IntervalParts", "Recommendation", "Gains",
                                    "Settling", "SettlingOption")),
    ("forecast.json", "forecast.py", ("Forecast", "ForecastedRegret")),
    ("replies.json", "replies.py", ("Replies", "Speaker", "Answered", "Reply")),
    ("manifest.json", "manifest.py", ("Manifest",)),
    ("proof.json", "proof.py", ("Proof", "LossBothWays")),
)  # fmt: skip
"""(file of a run's folder, file in runs/, its shapes)."""


def api() -> str:
    """The public names with their signatures and docstrings."""
    head = (
        "# Python API\n\nWhat `lowregret` (all up to `Engine`) and `lowregret.engine` give to programs, from "
        "their own docstrings. [The engine](../guides/engine.md) shows them at work.\n"
    )
    return head + "".join(_public(file, name) for file, name in NAMES)


def records() -> str:
    """The fields of every JSON file of a run's folder."""
    head = (
        "# Records\n\nThe JSON files of a run's folder, field by field. A field that has a default may be missing in "
        "records of earlier versions; `null` is unknown, or does not apply. JSON schemas of most of them are in "
        "[schema/records](schema/records).\n"
    )
    parts = [head]
    for file, module, shapes in RECORDS:
        parts.append(f"\n## `{file}`\n")
        found = {node.name: node for node in _classes(SOURCE / "runs" / module)}
        parts += [_table(found[name]) for name in shapes]
    return "".join(parts)


def _public(file: str, name: str) -> str:
    node = next(each for each in _definitions(SOURCE / file) if each.name == name)
    parts = [f"\n## {name}\n\n", _signature(node, file), _docstring(node)]
    if isinstance(node, ast.ClassDef):
        parts += _fields(node)
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                parts += [f"\n### {name}.{method.name}\n\n", _signature(method, file), _docstring(method)]
    return "".join(parts)


def _signature(node: ast.ClassDef | ast.FunctionDef, file: str) -> str:
    """How it is called; of a class with an __init__, by that."""
    made = node
    if isinstance(node, ast.ClassDef):
        made = next((each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"), node)
    where = f"`lowregret.{file.removesuffix('.py').replace('/', '.')}`"
    if isinstance(made, ast.ClassDef):
        return f"{where}\n\n"
    arguments = ast.unparse(made.args).replace("self, ", "", 1).removeprefix("self")
    returns = f" -> {ast.unparse(made.returns)}" if made.returns and made.name != "__init__" else ""
    return f"```text\n{node.name}({arguments}){returns}\n```\n\n"


def _docstring(node: ast.ClassDef | ast.FunctionDef) -> str:
    """Its paragraphs; lists of arguments and errors as they are laid out in the source."""
    blocks = (ast.get_docstring(node) or "").split("\n\n")
    return "".join(
        f"```text\n{block}\n```\n" if block.startswith(("Args:", "Raises:", "Returns:")) or "\n    " in block
        else f"{_escaped(' '.join(block.split()))}\n\n"
        for block in blocks
    )  # fmt: skip


def _fields(node: ast.ClassDef) -> list[str]:
    rows = list(_rows(node))
    return ["\n| field | type | default | meaning |\n|---|---|---|---|\n", *rows, "\n"] if rows else []


def _table(node: ast.ClassDef) -> str:
    return f"\n### {node.name}\n\n{_docstring(node)}{''.join(_fields(node)).lstrip()}".rstrip() + "\n"


def _rows(node: ast.ClassDef) -> Iterator[str]:
    """The annotated fields of a class, each with the text below it."""
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            told = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            meaning = _escaped(" ".join(str(told).split())).replace("|", "\\|")
            kind = ast.unparse(field.annotation).replace("|", "or")
            yield f"| `{field.target.id}` | `{kind}` | {_default(field.value)} | {meaning} |\n"


def _default(value: ast.expr | None) -> str:
    """A field's default in code; of pydantic's Field the one inside, nothing where it is required."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Field":
        inside = {each.arg: each.value for each in value.keywords}
        value = inside.get("default", value.args[0] if value.args else None)
        if value is None and "default_factory" in inside:
            return f"`{ast.unparse(inside['default_factory'])}()`"
    return "" if value is None else f"`{ast.unparse(value).replace('|', 'or')}`"


def _escaped(text: str) -> str:
    """Angle brackets outside of code would be HTML."""
    return "".join(part if index % 2 else part.replace("<", "&lt;") for index, part in enumerate(_spans(text)))


def _spans(text: str) -> list[str]:
    """Text and code in turns, code with its backticks."""
    parts = text.split("`")
    return [f"`{part}`" if index % 2 else part for index, part in enumerate(parts)]


def _definitions(path: Path) -> list[ast.ClassDef | ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]


def _classes(path: Path) -> list[ast.ClassDef]:
    return [node for node in _definitions(path) if isinstance(node, ast.ClassDef)]
