"""The pages of the documentation, by docs/pages.toml, and where each language has its text."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
INDEX = ROOT / "docs" / "pages.toml"
LANGUAGES = ("en", "zh")
HOME = "https://github.com/lowregret/lowregret/blob/main/"
RAW = "https://raw.githubusercontent.com/lowregret/lowregret/main/"

LISTED = ("docs/findings", "docs/reference", "docs/results")
"""Folders whose pages are on the site by themselves."""
_TRANSLATED = (
    "README.md",
    "docs/index.md",
    "docs/start.md",
    "docs/decide.md",
    "docs/limits.md",
    "docs/scale.md",
    "docs/guides/",
)
FINDINGS = "FINDINGS.md"
_IN_THE_ROOT = {FINDINGS: "findings/index.md", "README.md": "index.md", "README.zh-CN.md": "index.md"}


@dataclass(frozen=True)
class Page:
    """A page: the path of its English text in the repository, and its title and a sentence about it, by language."""

    path: str
    title: dict[str, str]
    about: dict[str, str]

    @property
    def place(self) -> str:
        """Its path on the site of each language."""
        return place(self.path)

    def text(self, language: str) -> Path:
        """Its file in a language: the English one where there is no other."""
        other = translation(self.path)
        return other if language == "zh" and other.exists() else ROOT / self.path


def place(path: str) -> str:
    """Where a page of the repository, in either language, lies on the site of a language."""
    if path in _IN_THE_ROOT:
        return _IN_THE_ROOT[path]
    below = path.removeprefix("docs/").removeprefix("zh/")
    return below if path.startswith("docs/") else below.lower()


def translation(path: str) -> Path:
    """Where the Chinese text of a page is, or would be."""
    return ROOT / ("README.zh-CN.md" if path == "README.md" else path.replace("docs/", "docs/zh/", 1))


def is_chinese(file: Path) -> bool:
    """Whether a file is a Chinese text."""
    return file.is_relative_to(ROOT / "docs/zh") or file.name.endswith(".zh-CN.md")


def to_translate() -> list[str]:
    """The pages that must have a Chinese text: those by which a reader starts, decides and works."""
    found = ["README.md", *(page.path for _, pages in sections() for page in pages)]
    return [path for path in found if path.startswith(_TRANSLATED)]


def sections() -> list[tuple[dict[str, str], list[Page]]]:
    """The sections of the site, with their title by language, and the pages that docs/pages.toml lists in each."""
    found = tomllib.loads(INDEX.read_text(encoding="utf-8"))["section"]
    return [(each["title"], [Page(**page) for page in each["page"]]) for each in found]


def listed(folder: str) -> Iterator[Page]:
    """The pages of a folder that are on the site by themselves, titled by their first heading."""
    named = {page.path for _, pages in sections() for page in pages}
    for path in sorted((ROOT / folder).rglob("*.md"), reverse=folder == "docs/findings"):
        name = path.relative_to(ROOT).as_posix()
        if name not in named:
            text = path.read_text(encoding="utf-8")
            heading = re.search(r"^# +(.+?) *$", text, re.MULTILINE)
            title = heading[1] if heading else path.stem
            line = re.search(r"^\*\*In a line:\*\* *(.+)$", text, re.MULTILINE)
            about = re.sub(r"\[([^\]]*)\]\([^)]*\)|[*`]", r"\1", line[1]) if line else title
            yield Page(name, dict.fromkeys(LANGUAGES, title), dict.fromkeys(LANGUAGES, about))


def every() -> list[Page]:
    """All pages of the site."""
    return [*(page for _, pages in sections() for page in pages), *(page for name in LISTED for page in listed(name))]
