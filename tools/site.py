"""Builds the documentation as a site, in English and in Chinese, below build/site.

    python tools/site.py

A dead link, anchor or picture, a request to elsewhere, and a page that reads otherwise than on GitHub are errors.

The texts are those of the repository, which GitHub shows too. For the site, links to files that are no page lead to
GitHub, and a page without a Chinese text stands in the Chinese site as it is, with a line that says so.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

if __name__ == "__main__":  # a file in tools/ is run by its path
    sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.pages import FINDINGS, HOME, LANGUAGES, RAW, ROOT, Page, every, is_chinese, listed, place, sections
from tools.site_check import wrong
from tools.translations import anchors, behind

BUILD = ROOT / "build"
STAGED, SITE = BUILD / "pages", BUILD / "site"
_BELOW = {"en": "", "zh": "zh/"}
"""Where below SITE a language lies."""
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_ITEM = re.compile(r"(?:[-*]|\d+\.) ")
_ASSETS = (
    "stylesheets/site.css",
    "javascripts/iframe-worker.js",
    "javascripts/languages.js",
    "javascripts/scrolling.js",
)
_NOTES = {
    "english": "> 本页只有英文。\n\n",
    "behind": "> 以下小节的英文版已有更新，译文可能滞后：{}。\n\n",
}


def stage(language: str, folder: Path) -> None:
    """Write all pages of a language, and the pictures that they show, below a folder."""
    pages = every()
    texts = {page.path: page.text(language) for page in pages}
    for page in pages:
        head = f"---\ndescription: {_quoted(page.about[language])}\n---\n\n"
        text = head + _note(page, language) + as_markdown(linked(texts[page.path], texts, folder))
        _write(folder / page.place, text)
    for name in _ASSETS:
        _write(folder / name, (ROOT / "docs" / name).read_text(encoding="utf-8"))


def linked(source: Path, texts: dict[str, Path], folder: Path) -> str:
    """A page's text with its links for a site of `texts` (the page's English path → the file that it shows).

    Links between pages are relative to the page's place, those to other files of the repository lead to GitHub, and
    pictures are copied to `folder`. An English page's anchor in a Chinese one is that of the same heading there.
    """
    here = source.relative_to(ROOT).as_posix()

    def moved(match: re.Match[str]) -> str:
        target, _, anchor = match[1].removeprefix(HOME).removeprefix(RAW).partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        base = ROOT if match[1].startswith((HOME, RAW)) else source.parent
        goal = Path(os.path.normpath(base / target))
        if not goal.exists():
            return match[0]
        name = goal.relative_to(ROOT).as_posix()
        english = name.replace("docs/zh/", "docs/", 1).replace("README.zh-CN.md", "README.md")
        if english in texts or english == "README.md":
            found = _relative(place(english), place(here))
            if anchor and english in texts and is_chinese(texts[english]) and not is_chinese(source):
                anchor = anchors(english).get(anchor, anchor)
        elif goal.suffix in {".png", ".svg"}:
            copied = folder / place(name)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(goal, copied)
            found = _relative(place(name), place(here))
        else:
            found = f"{HOME.replace('/blob/', '/tree/') if goal.is_dir() else HOME}{name}"
        return f"]({found}#{anchor})" if anchor else f"]({found})"

    text = source.read_text(encoding="utf-8")
    return _outside_code(text, lambda prose: _LINK.sub(moved, prose))


def as_markdown(text: str) -> str:
    """A text in GitHub's Markdown as Python-Markdown reads it: blank lines before lists and tables in paragraphs."""

    def apart(prose: str) -> str:
        lines: list[str] = []
        in_list = False
        for line in prose.split("\n"):
            before = lines[-1] if lines else ""
            begins = _ITEM.match(line) is not None and not in_list
            table = line.startswith("|") and not before.startswith("|")
            if before.strip() and (begins or table):
                lines.append("")
            in_list = bool(line.strip()) and (in_list or begins)
            lines.append(line)
        return "\n".join(lines)

    fences = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
    return "".join(
        part if fences.fullmatch(part) else apart(part)
        for part in re.split(rf"({fences.pattern})", text, flags=re.MULTILINE | re.DOTALL)
    )


def config(language: str, folder: Path, site: Path) -> dict[str, Any]:
    """What the site of a language has beside mkdocs.yml: its texts, its navigation, its words."""
    chinese = language == "zh"
    return {
        "INHERIT": "../mkdocs.yml",
        "docs_dir": folder.relative_to(BUILD).as_posix(),
        "site_dir": site.relative_to(BUILD).as_posix(),
        "site_description": dict(_navigation_pages())["docs/index.md"].about[language],
        "nav": [{title[language]: _entries(pages, language)} for title, pages in sections()],
        "theme": {"language": "zh" if chinese else "en"},
        "extra": {
            "alternate": [
                {"name": "English", "link": "../index.html" if chinese else "./index.html", "lang": "en"},
                {"name": "简体中文", "link": "./index.html" if chinese else "./zh/index.html", "lang": "zh"},
            ]
        },
    }


def _navigation_pages() -> list[tuple[str, Page]]:
    return [(page.path, page) for _, pages in sections() for page in pages]


def _entries(pages: list[Page], language: str) -> list[dict[str, str]]:
    """The navigation of a section; behind an index its folder's own pages."""
    found = [{page.title[language]: page.place} for page in pages]
    for page in pages:
        if page.path == FINDINGS:
            found += [{each.title[language]: each.place} for each in listed("docs/findings")]
        elif page.path == "docs/reference/index.md":
            verbs = listed("docs/reference")
            found += [{each.title[language].removeprefix("lowregret "): each.place} for each in verbs]
    return found


def _warnings(said: str) -> list[str]:
    """`pages/zh/design.md:84:121: anchor does not exist`, of what the builder draws over several lines."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", said)
    return [": ".join(found[::-1]) for found in re.findall(r"^Warning: (.+)\n\W*?\[ (\S+) \]", plain, re.MULTILINE)]


def _note(page: Page, language: str) -> str:
    if language == "en" or page.path == "docs/glossary.md":
        return ""
    if page.text(language) == ROOT / page.path:
        return _NOTES["english"]
    old = behind(page.path)
    return _NOTES["behind"].format("、".join(old)) if old else ""


def _outside_code(text: str, change: Any) -> str:
    parts, last = [], 0
    for code in CODE.finditer(text):
        parts += [change(text[last : code.start()]), code[0]]
        last = code.end()
    return "".join([*parts, change(text[last:])])


def _relative(goal: str, here: str) -> str:
    return Path(os.path.relpath(goal, Path(here).parent)).as_posix()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def build(language: str) -> str:
    """Stage and build the site of a language; what is wrong with it, or nothing."""
    folder = STAGED / language
    stage(language, folder)
    file = BUILD / f"{language}.yml"
    _write(file, yaml.safe_dump(config(language, folder, SITE / _BELOW[language]), allow_unicode=True, sort_keys=False))
    command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    said = done.stdout + done.stderr
    return ("\n".join(_warnings(said)) or said) if done.returncode else ""


def main() -> int:
    """Build both languages and look at what was built; 1, and a line for each, where something is wrong."""
    for folder in (STAGED, SITE):
        shutil.rmtree(folder, ignore_errors=True)
    found = [said for language in LANGUAGES if (said := build(language))]
    if not found:
        texts = {
            _BELOW[language] + page.place: STAGED / language / page.place for language in LANGUAGES for page in every()
        }
        found = list(wrong(SITE, texts))
    print("\n".join(found) if found else f"{SITE}: {sum(1 for _ in SITE.rglob('*.html'))} pages")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
