"""What is wrong with a built site: links and pictures that lead nowhere, requests, and texts that read otherwise.

`python tools/site.py` looks at what it has built. A page must have the headings, items, rows and blocks of code that
CommonMark, which GitHub shows, finds in its text; the builder reads another Markdown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt

_SHAPE = {"h1", "h2", "h3", "h4", "li", "tr", "pre", "blockquote", "img"}
_HEAD = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


class _Page(HTMLParser):
    """A page's links, what it loads, its anchors, and the shape of its article."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.shape: Counter[str] = Counter()
        self._in_article = not re.search("<article", html)
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors.update(value for name in ("id", "name") if (value := found.get(name)))
        if tag == "a" and found.get("href"):
            self.links.add(found["href"] or "")
        if found.get("src") or (tag == "link" and found.get("rel") == "stylesheet"):
            self.loaded.add(found.get("src") or found.get("href") or "")
        self._in_article |= tag == "article"
        if self._in_article and tag in _SHAPE:
            self.shape[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        if tag == "article":
            self._in_article = False


def shape(markdown: str) -> Counter[str]:
    """What CommonMark, with tables, finds in a page's text."""
    return _Page(MarkdownIt().enable("table").render(_HEAD.sub("", markdown))).shape


def wrong(site: Path, pages: dict[str, Path]) -> Iterator[str]:
    """What is wrong with the pages of a folder, a line each; `pages` are the texts by their place on the site."""
    built = {path: _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    for path, page in sorted(built.items()):
        name = path.relative_to(site).as_posix()
        for target in sorted(page.loaded):
            if re.match(r"(?:[a-z]+:)?//", target):
                yield f"{name}: loads {target}"
            elif not target.startswith("data:") and not _goal(path, target).exists():
                yield f"{name}: {target} is not there"
        for target in sorted(page.links):
            place, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target) or target == ".":
                continue
            goal = _goal(path, place) if place else path
            if not goal.exists():
                yield f"{name}: {target} is not there"
            elif anchor and goal in built and unquote(anchor) not in built[goal].anchors:
                yield f"{name}: {target} has no such anchor"
        text = pages.get(name.removesuffix(".html") + ".md")
        if text is not None:
            wanted = shape(text.read_text(encoding="utf-8"))
            wanted["h1"] = max(1, wanted["h1"])  # a page without a title gets one
            if page.shape != wanted:
                yield f"{name}: CommonMark has more {dict(wanted - page.shape)}, the site {dict(page.shape - wanted)}"


def _goal(page: Path, target: str) -> Path:
    return (page.parent / unquote(target.partition("?")[0])).resolve()
