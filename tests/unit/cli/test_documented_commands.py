"""Every `lowregret …` line of the pages, in both languages, is one that the command line takes. Nothing is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from cyclopts import App, CycloptsError, MissingArgumentError

from lowregret.cli.app import make_app
from lowregret.cli.verbs import VERBS

ROOT = Path(__file__).parents[3]
PAGES = [page for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")) if page.name != "CHANGELOG.md"]
FENCE = re.compile(r"^```(?:bash|sh|text)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`(lowregret [^`\n]+)`")
START = re.compile(r"(?:[A-Z_]+=\S* )*(?:\S*/)?(?:.* -m )?lowregret (?=[a-z])")
LEFT_OUT = re.compile(r"…|\||\bNAME-|[<>]")
"""What stands for something, or is no argument: a list of choices, a redirection."""


def typed(text: str) -> Iterator[list[str]]:
    """The arguments of each command in the blocks of code."""
    for block in FENCE.findall(text):
        yield from commands(re.sub(r" *\\\n *", " ", block).splitlines())


def named(text: str) -> Iterator[list[str]]:
    """The same of running text, which may name a command without all that it needs."""
    yield from commands(SPAN.findall(FENCE.sub("", text)))


def commands(lines: list[str]) -> Iterator[list[str]]:
    for line in lines:
        begun = START.match(line)
        if begun and not LEFT_OUT.search(line.partition("  #")[0]):
            words = shlex.split(line[begun.end() :], comments=True)
            if words[0] in VERBS:
                yield words


@cache
def app() -> App:
    return make_app()


def refused(words: list[str]) -> CycloptsError | None:
    """What the parser says against a command; None where it takes it."""
    try:
        app().parse_args(words, print_error=False, exit_on_error=False)
    except CycloptsError as error:
        return error
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_are_taken(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = [(words, refused(words)) for words in typed(text)]
    found += [(words, error) for words in named(text) if not isinstance(error := refused(words), MissingArgumentError)]
    assert {f"lowregret {shlex.join(words)}": str(error) for words, error in found if error} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_targets_of_make_are_there(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    blocks = "".join(FENCE.findall(page.read_text(encoding="utf-8")))
    named = re.findall(r"^make (?:[A-Z]+=\S+ )*([a-z-]+)", blocks, re.MULTILINE)
    assert [target for target in named if f"\n{target}:" not in makefile] == []


def test_commands_are_found_and_wrong_ones_are_told() -> None:
    text = (
        "`lowregret plan tiny --hardwaer H100` and `lowregret VERB --help`\n"
        "```\nKEY=x lowregret serve MODEL \\\n  --port 1  # why\ntorchrun -m lowregret train --modle tiny\n"
        "lowregret ship RUN --to peft|merged\n```\n```python\nlowregret train\n```\n"
    )
    found = [*typed(text), *named(text)]
    assert found[0] == ["serve", "MODEL", "--port", "1"]
    assert [words[0] for words in found] == ["serve", "train", "plan"]
    assert [refused(words) is None for words in found] == [True, False, False]


def test_enough_commands_are_found() -> None:
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    assert sum(1 for text in texts for _ in typed(text)) > 100
    assert sum(1 for text in texts for _ in named(text)) > 100
