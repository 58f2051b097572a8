"""Builds the documentation as a site, in English and in Chinese, below build/site.

    python tools/site.py            # strictly: a dead link, anchor or picture ends it
    python tools/site.py --stage    # only what the site is built of, in build/pages

The texts are those of the repository, which GitHub shows too. For the site, links to files that are no page lead to
GitHub, and a page without a Chinese text stands in the Chinese site as it is, with a line that says so.
"""

from __future__ import annotations

import argparse
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

from tools.pages import FINDINGS, HOME, LANGUAGES, RAW, ROOT, Page, every, listed, place, sections
from tools.translations import behind

BUILD = ROOT / "build"
STAGED, SITE = BUILD / "pages", BUILD / "site"
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_ITEM = re.compile(r"(?:[-*]|\d+\.) ")
_ASSETS = ("stylesheets/site.css", "javascripts/iframe-worker.js")
_NOTES = {
    "english": "> 本页只有英文。\n\n",
    "behind": "> 以下小节的英文版已有更新，译文可能滞后：{}。\n\n",
}


def stage(language: str, folder: Path) -> None:
    """Write all pages of a language, and the pictures that they show, below a folder."""
    pages = every()
    places = {page.path: page.place for page in pages}
    for page in pages:
        source = page.text(language)
        head = f"---\ndescription: {_quoted(page.about[language])}\n---\n\n"
        text = head + _note(page, language) + as_markdown(linked(source, places, folder))
        _write(folder / page.place, text)
    for name in _ASSETS:
        _write(folder / name, (ROOT / "docs" / name).read_text(encoding="utf-8"))


def linked(source: Path, places: dict[str, str], folder: Path) -> str:
    """A page's text with its links for the site; pictures that it shows are copied to `folder`.

    Links between pages are relative to the page's place; those to other files of the repository lead to GitHub.
    """
    here = source.relative_to(ROOT).as_posix()

    def moved(match: re.Match[str]) -> str:
        target, _, anchor = match[1].removeprefix(HOME).removeprefix(RAW).partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        base = ROOT if match[1].startswith((HOME, RAW)) else source.parent
        goal = Path(os.path.normpath(base / target))
        name = goal.relative_to(ROOT).as_posix()
        english = name.replace("docs/zh/", "docs/", 1).replace("README.zh-CN.md", "README.md")
        if english in places or english == "README.md":
            found = _relative(place(english), place(here))
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
                {"name": "English", "link": "../" if chinese else "./", "lang": "en"},
                {"name": "简体中文", "link": "./" if chinese else "./zh/", "lang": "zh"},
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


def main(arguments: list[str]) -> int:
    """Stage, then build each language; the first failure's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", action="store_true", help="write what the site is built of, and build nothing")
    asked = parser.parse_args(arguments)
    shutil.rmtree(STAGED, ignore_errors=True)
    shutil.rmtree(SITE, ignore_errors=True)
    for language in LANGUAGES:
        folder, site = STAGED / language, SITE / ("" if language == "en" else language)
        stage(language, folder)
        file = BUILD / f"{language}.yml"
        _write(file, yaml.safe_dump(config(language, folder, site), allow_unicode=True, sort_keys=False))
        if not asked.stage:
            done = subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "-f", str(file)])
            if done.returncode:
                return done.returncode
    if not asked.stage:
        print(f"{SITE}: {sum(1 for _ in SITE.rglob('*.html'))} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
