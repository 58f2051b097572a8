"""The pages hold together: links and anchors resolve, and a section of the science that is named is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOME = "https://github.com/lowregret/lowregret/blob/main/"
RAW = "https://raw.githubusercontent.com/lowregret/lowregret/main/"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FINDINGS = sorted((ROOT / "docs/findings").glob("*.md"))

LINK = re.compile(r"\]\(([^()\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
NUMBER = r"\d+(?:\.\d+)?"
# "SCIENCE 3.7, 3.8", "docs/science.md 3.6 and 3.13", "science 3.9"; a line, and a comment's sign, may break between.
SECTIONS = re.compile(
    rf"(?:\bSCIENCE|\bscience\.md|\[science)\s+(?:#\s+)?({NUMBER}(?:(?:,|\s+and)\s+{NUMBER}\b(?!\s*[%×*]))*)"
)
# What SCIENCE and DESIGN were called before they were pages of the repository.
OUTSIDE = re.compile(r"\b(?:SCIENCE|DESIGN)\.md\b")


def texts(*endings: str) -> list[Path]:
    """What is written by hand: source, tests, recipes and pages."""
    folders = ("src", "docs", "recipes", "tests", "benchmarks", "examples")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    return [path for path in [*found, *ROOT.glob("*")] if path.suffix in endings]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE)
    words = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", word).replace(" ", "-") for word in words}


def dead(page: Path) -> list[str]:
    found = []
    for target in LINK.findall(prose(page)):
        path, _, anchor = target.removeprefix(HOME).removeprefix(RAW).partition("#")
        base = ROOT if target.startswith((HOME, RAW)) else page.parent
        if re.match(r"[a-z]+:", path):
            continue
        goal = (base / path) if path else page
        if not goal.exists() or (anchor and goal.suffix == ".md" and anchor not in anchors(goal)):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert dead(page) == []


def test_the_search_for_dead_links_finds_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# One two\n[a](#one-two) [b](#three) [c](gone.md) [d]({HOME}gone.md) [e]({HOME}README.md)\n")
    assert dead(page) == ["#three", "gone.md", f"{HOME}gone.md"]


def test_the_readme_has_no_relative_links() -> None:
    """A package index shows it without the files beside it."""
    text = prose(ROOT / "README.md")
    assert [target for target in LINK.findall(text) if not target.startswith("https://")] == []


def named_sections() -> dict[str, list[str]]:
    """Section of the science → where it is named."""
    found: dict[str, list[str]] = {}
    for path in texts(".py", ".md", ".toml"):
        for listed in SECTIONS.findall(path.read_text(encoding="utf-8")):
            for number in re.findall(NUMBER, listed):
                found.setdefault(number, []).append(str(path.relative_to(ROOT)))
    return found


def test_every_section_of_the_science_that_is_named_is_there() -> None:
    headings = re.findall(rf"^##+ ({NUMBER})\.? ", (ROOT / "docs/science.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = named_sections()
    assert len(named) > 10
    assert {number: places for number, places in named.items() if number not in headings} == {}


def test_the_search_for_sections_finds_them() -> None:
    text = "(SCIENCE 3.7, 3.8), docs/science.md 3.6 and 3.13; (SCIENCE\n# 5), SCIENCE 4, 9 % of it, SCIENCE n"
    assert SECTIONS.findall(text) == ["3.7, 3.8", "3.6 and 3.13", "5", "4"]


def test_nothing_names_a_page_that_the_repository_does_not_have() -> None:
    files = [path for path in texts(".py", ".md", ".toml") if path != Path(__file__)]
    assert [str(path.relative_to(ROOT)) for path in files if OUTSIDE.search(path.read_text(encoding="utf-8"))] == []


def test_pages_that_source_names_are_there() -> None:
    pattern = re.compile(r"(?<![\w/.])(docs/[a-z0-9_/-]+\.md)\b")
    foreign = {"docs/gguf.md"}  # of another project, ggml
    for path in texts(".py", ".toml"):
        named = set(pattern.findall(path.read_text(encoding="utf-8"))) - foreign
        assert [name for name in named if not (ROOT / name).exists()] == [], path.relative_to(ROOT)


@pytest.mark.parametrize("page", FINDINGS, ids=lambda page: page.stem)
def test_a_finding_has_its_parts_and_its_row(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    date = re.fullmatch(r"(\d{4}-\d{2}-\d{2})-[a-z0-9-]+", page.stem)
    assert date, "docs/findings/YYYY-MM-DD-slug.md"
    parts = ("**In a line:**", "**Command**", "**Machine:**", "**Commit:**", "## Result", "## What did not work")
    assert [part for part in parts if part not in text] == []
    (row,) = [line for line in (ROOT / "FINDINGS.md").read_text("utf-8").splitlines() if f"/{page.name})" in line]
    question = text.splitlines()[0].removeprefix("# ")
    assert row.startswith(f"| {date[1]} | {question} |")


def test_every_recipe_says_in_its_first_line_what_it_does() -> None:
    firsts = {path.name: path.read_text("utf-8").splitlines()[0] for path in (ROOT / "recipes").glob("*.toml")}
    assert firsts
    assert {name: line for name, line in firsts.items() if not re.fullmatch(r"# [A-Z][a-z]+s .+\.", line)} == {}
