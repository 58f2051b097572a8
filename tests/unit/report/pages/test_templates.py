"""HTML stands in templates alone, and what they are given is text."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

import lowregret.report
from lowregret.report.pages.templates import prose, render

ROOM = Path(lowregret.report.__file__).parent
FOLDER = ROOM / "pages" / "templates"
TAG = re.compile(r"</?[a-z][a-z0-9]*(?:\s|/?>)")
HOSTILE = "</p><script>alert(1)</script> \x1b[2J password=s3cr3tpass & \"quotes\" 'too'"


def texts(path: Path) -> list[str]:
    """The texts of a module, but for its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone
    ]


@pytest.mark.parametrize("path", sorted(ROOM.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOM)))
def test_no_module_writes_html(path: Path) -> None:
    assert [text for text in texts(path) if TAG.search(text)] == []


def test_html_would_be_found() -> None:
    assert all(TAG.search(text) for text in ("<p>", '<td class="', "</div>", "a <br/>"))
    assert not any(TAG.search(text) for text in ("a < b", "<|im_end|>", ">\n", "1 <2"))


def test_no_module_but_the_two_that_may_calls_a_text_safe() -> None:
    """templates.py for what a template made, document.py for our own files and the writer of XML."""
    calls = {
        path.name: path.read_text(encoding="utf-8").count("Markup(")
        - path.read_text(encoding="utf-8").count('Markup("")')
        for path in ROOM.rglob("*.py")
    }
    assert {name: count for name, count in calls.items() if count} == {"templates.py": 1, "document.py": 3}
    assert not [path.name for path in FOLDER.iterdir() if "|safe" in path.read_text(encoding="utf-8").replace(" ", "")]


def test_every_template_is_used() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOM / "pages").glob("*.py"))
    assert all(f'"{path.stem}"' in source for path in FOLDER.iterdir())


def test_what_is_given_is_text_without_secrets_and_orders() -> None:
    made = render("section", key="k", title=HOSTILE, body=HOSTILE)
    assert "<script>" not in made
    assert made.count("&lt;script&gt;") == 2
    assert "s3cr3tpass" not in made
    assert "\x1b" not in made
    assert "<b>kept</b>" in render("section", key="k", title="t", body=Markup("<b>kept</b>"))


def test_a_name_that_is_not_given_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'body' is undefined"):
        render("section", key="k", title="t")


def test_nothing_is_a_dash() -> None:
    assert "<dd>0.5</dd>" in render("pairs", rows=[("a", "0.5")], otherwise=None)
    assert '<h2 id="k-title">–</h2>' in render("section", key="k", title=None, body="")


def test_a_percent_sign_stays_with_its_number() -> None:
    assert prose("5 % of (rank 4)") == "5\xa0% of (rank\xa04)"
