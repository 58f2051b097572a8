"""The Chinese pages have what the English ones have, use the words of the glossary, and read as Markdown does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from tools import translations
from tools.pages import ROOT, to_translate, translation
from tools.translations import HAN

WHAT_TO_DO = "change the Chinese page along; `python tools/translations.py` lists all that is to be done"
PAGES = to_translate()
CHINESE = sorted(path for path in (*(ROOT / "docs/zh").rglob("*.md"), *ROOT.glob("*.zh-CN.md")))
NAME = [str(path.relative_to(ROOT)) for path in CHINESE]


def glossary() -> list[tuple[str, str, list[str]]]:
    """(English, Chinese, words that are not used)."""
    lines = (ROOT / "docs/glossary.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [(row[0], row[1], [word for word in row[4].split("、") if word]) for row in rows[1:]]


def prose(path: Path) -> str:
    """A page without code and the targets of links."""
    text = translations.FENCE.sub("", path.read_text(encoding="utf-8"))
    return re.sub(r"\]\([^()]*\)", "]", re.sub(r"`[^`\n]*`|<!--.*?-->", "", text))


def test_every_page_by_which_one_works_has_a_chinese_text() -> None:
    assert len(PAGES) > 20
    missing = [str(translation(path).relative_to(ROOT)) for path in PAGES if not translation(path).exists()]
    assert missing == [], WHAT_TO_DO


def test_every_chinese_text_has_its_english_page() -> None:
    assert {translation(path) for path in PAGES} >= set(CHINESE)


@pytest.mark.parametrize("path", [path for path in PAGES if translation(path).exists()])
def test_both_languages_have_the_same_structure_code_numbers_and_links(path: str) -> None:
    assert translations.unequal(path) == [], WHAT_TO_DO
    assert translations.with_made(path) == translation(path).read_text("utf-8"), "python tools/translations.py"


def test_a_difference_is_found_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    english = "# A\nOne [b](b.md) costs 1,024.\n\n```\nlowregret plan x  # why\n```\n\n## C\n- 1\n- `2`\n"
    chinese = "# 甲\n一个 [乙](../b.md) 要 1,024。\n\n```\nlowregret plan x  # 为什么\n```\n\n## 丙\n- 1\n- `2`\n"
    (tmp_path / "docs/zh").mkdir(parents=True)
    for module in ("tools.translations", "tools.pages"):
        monkeypatch.setattr(f"{module}.ROOT", tmp_path)
    pages = tmp_path / "docs/index.md", tmp_path / "docs/zh/index.md"
    pages[0].write_text(english)
    for wrong, said in (
        (chinese, None),
        (chinese.replace("1,024", "1,025"), "numbers"),
        (chinese.replace("## 丙", "### 丙"), "headings"),
        (chinese.replace("plan x", "plan y"), "code"),
        (chinese.replace("`2`", "`3`"), "inline code"),
        (chinese.replace("../b.md", "../c.md"), "links"),
        (chinese.replace("- 1\n", ""), "items"),
    ):
        pages[1].write_text(wrong)
        found = translations.unequal("docs/index.md")
        assert (found == []) if said is None else any(said in line for line in found), (said, found)
    pages[1].write_text(chinese)
    assert translations.behind("docs/index.md") == ["甲"]
    translations.see("docs/index.md")
    assert translations.behind("docs/index.md") == []
    pages[0].write_text(english.replace("- 1\n", "- 1, of one\n"))
    assert translations.behind("docs/index.md") == ["丙"]


@pytest.mark.parametrize("page", CHINESE, ids=NAME)
def test_a_chinese_page_leads_to_chinese_pages(page: Path) -> None:
    """But for the way back to the English text of the page itself."""
    english = {ROOT / path for path in PAGES if translation(path) != page}
    text = translations.FENCE.sub("", page.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^()\s#:]+)(?:#[^()\s]*)?\)", text)
    assert [target for target in targets if (page.parent / target).resolve() in english] == []


@pytest.mark.parametrize("page", CHINESE, ids=NAME)
def test_the_words_are_those_of_the_glossary(page: Path) -> None:
    text = prose(page)
    path = next(path for path in PAGES if translation(path) == page)
    english = prose(ROOT / path).lower()
    words = glossary()
    assert len(words) > 20
    assert [word for _, _, avoided in words for word in avoided if word in text] == []
    told = [word for word in words if len(re.findall(rf"\b{re.escape(word[0].lower())}\b", english)) > 2]
    assert [(word, chinese) for word, chinese, _ in told if chinese not in text] == []


def paragraphs(text: str) -> Iterator[str]:
    for token in MarkdownIt().enable("table").parse(text):
        if token.type == "inline":
            yield token.content


@pytest.mark.parametrize("page", CHINESE, ids=NAME)
def test_a_chinese_page_reads_as_it_should(page: Path) -> None:
    """Whole lines, because a break between characters shows as a blank; no mark left over; Chinese punctuation."""
    text = page.read_text(encoding="utf-8")
    for paragraph in paragraphs(text):
        assert "\n" not in paragraph, f"a paragraph or an item is one line: {paragraph[:60]}"
    shown = "".join(
        child.content
        for token in MarkdownIt().enable("table").parse(text)
        for child in token.children or ()
        if child.type == "text"
    )
    assert re.findall(r".{0,20}\*\*.{0,20}", shown) == [], "a mark of emphasis beside punctuation stays a star"
    assert re.findall(rf".{{0,10}}[{HAN}][,;:?!]|[,;:?!][{HAN}]", prose(page)) == []
    assert len(re.findall(f"[{HAN}]", text)) > len(re.findall("[a-zA-Z]", prose(page))) / 3
