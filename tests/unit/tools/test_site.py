"""Every page is on the site and told to assistants; what the site is built of has no link to nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tools import assistants, site, site_check
from tools.pages import FINDINGS, LANGUAGES, ROOT, every, place, sections

ROOTS = {FINDINGS, "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"}
LINK = re.compile(r"\]\(([^()\s]+)\)")


@pytest.fixture(scope="module", params=LANGUAGES)
def staged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    site.stage(request.param, folder)
    return request.param, folder


def test_every_page_is_on_the_site() -> None:
    pages = [page.path for page in every()]
    assert len(set(pages)) == len(pages)
    docs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    english = {path for path in docs if not path.startswith("docs/zh/")}
    assert set(pages) == english | ROOTS, "a new page needs an entry in docs/pages.toml"
    assert len({page.place for page in every()}) == len(pages)


def test_every_page_has_a_title_and_a_description_in_both_languages() -> None:
    for page in every():
        for language in LANGUAGES:
            assert page.title[language]
            assert page.about[language]
    listed = [page for _, pages in sections() for page in pages]
    assert all(re.search("[\u4e00-\u9fff]", page.about["zh"]) for page in listed)
    assert all(20 < len(page.about["en"]) < 170 for page in listed)


def test_what_is_built_has_no_link_to_nowhere(staged: tuple[str, Path]) -> None:
    """Links to pages and pictures; what is no page leads to the repository."""
    language, folder = staged
    dead = []
    for page in folder.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert text.startswith("---\ndescription: '")
        for target in LINK.findall(site.CODE.sub("", text)):
            path = target.partition("#")[0]
            if not re.match(r"[a-z]+:", target) and path and not (page.parent / path).is_file():
                dead.append(f"{language}: {page.relative_to(folder)}: {target}")
    assert dead == []


def test_a_page_without_a_chinese_text_says_so(staged: tuple[str, Path]) -> None:
    language, folder = staged
    said = "本页只有英文" in (folder / place("docs/science.md")).read_text(encoding="utf-8")
    assert said == (language == "zh")


def test_lists_and_tables_in_paragraphs_are_set_apart() -> None:
    text = "Two:\n- one\n  more\n- two\n\nA\n| a |\n|---|\n| b |\n```\nx\n- y\n```\n1. z\n"
    wanted = "Two:\n\n- one\n  more\n- two\n\nA\n\n| a |\n|---|\n| b |\n```\nx\n- y\n```\n1. z\n"
    assert site.as_markdown(text) == wanted


def test_what_assistants_read_is_what_the_pages_say() -> None:
    assert assistants.FILE.read_text(encoding="utf-8") == assistants.text(), "renew it: python tools/assistants.py"
    agents = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert [name for name in re.findall(r"^make (\S+)", agents, re.MULTILINE) if f"\n{name}:" not in makefile] == []


def test_what_is_wrong_with_a_built_page_is_told(tmp_path: Path) -> None:
    text = tmp_path / "a.md"
    text.write_text("---\ndescription: 'x'\n---\n\n# A\nTwo:\n- one\n- two\n\n| a |\n|---|\n| b |\n", encoding="utf-8")
    rows = "<table><tr><th>a</th></tr><tr><td>b</td></tr></table>"
    right = f'<article><h1 id="a">A</h1><p>Two:</p><ul><li>one</li><li>two</li></ul>{rows}<a href="#a">A</a></article>'
    page = tmp_path / "a.html"
    for wrong, said in (
        ("", None),
        ('<script src="https://host.example/x.js"></script>', "loads https://host.example/x.js"),
        ('<link rel="stylesheet" href="gone.css">', "gone.css is not there"),
        ('<a href="gone.html">x</a>', "gone.html is not there"),
        ('<a href="#gone">x</a>', "#gone has no such anchor"),
        ("<article><ul><li>three</li></ul></article>", "'li': 1"),
    ):
        page.write_text(right + wrong, encoding="utf-8")
        found = list(site_check.wrong(tmp_path, {"a.md": text}))
        assert (found == []) if said is None else (len(found) == 1 and said in found[0]), (said, found)
