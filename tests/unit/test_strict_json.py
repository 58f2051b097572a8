"""Every JSON that is printed or written is JSON: there is one writer, and it has no NaN."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path

import pytest

from lowregret.strict_json import to_json

ROOT = Path(__file__).parents[2]
WRITER = ROOT / "src" / "lowregret" / "strict_json.py"
SOURCES = sorted(
    path for folder in ("src", "tools", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")
)
_TEXTS = (ROOT / "src/lowregret/data/chat", ROOT / "src/lowregret/data/turns.py")
"""Spell parts of a row as a chat template does, which is no JSON of ours: these are looked for in its text."""
_WRITES = ("dump", "dumps", "JSONEncoder")


def writers(tree: ast.AST) -> list[int]:
    """Lines that make JSON by the standard library, by whatever name."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in _WRITES and getattr(node.value, "id", "") == "json":
            found.append(node.lineno)
        if isinstance(node, ast.ImportFrom) and node.module == "json":
            found += [node.lineno for name in node.names if name.name in _WRITES]
        if isinstance(node, ast.Import):
            found += [node.lineno for name in node.names if name.name == "json" and name.asname]
    return found


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_spell_is_null(value: float) -> None:
    assert to_json({"a": [value, (1.5, value)], "b": {"c": value}}) == '{"a": [null, [1.5, null]], "b": {"c": null}}'


def test_every_bit_of_the_others_is_kept() -> None:
    value = {"a": 0.1 + 0.2, "é": [1, True, None, "x"]}
    assert json.loads(to_json(value, indent=1, ensure_ascii=False)) == value


def test_there_is_one_writer() -> None:
    assert len(SOURCES) > 300
    found = {path: writers(ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES}
    others = [path for path, lines in found.items() if lines and not any(path.is_relative_to(text) for text in _TEXTS)]
    assert others == [WRITER]


@pytest.mark.parametrize("text", ["json.dumps(1)", "from json import dump", "import json as j", "json.JSONEncoder()"])
def test_another_would_be_found(text: str) -> None:
    assert writers(ast.parse(text))
