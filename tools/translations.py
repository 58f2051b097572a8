"""Says which Chinese pages are missing, differ from the English ones, or are older than them.

    python tools/translations.py            # what is to be done, page by page; writes what is made in both languages
    python tools/translations.py --seen docs/guides/data.md …

A Chinese page has the English page's headings, lists, tables, code, numbers and links, section by section. Its last
line keeps a digest of each English section that it was made from: a section whose English text has changed since is
told here and on the site, until its Chinese text has been looked at and `--seen` says so.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # a file in tools/ is run by its path
    sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.pages import HOME, RAW, ROOT, to_translate, translation

HAN = "\u4e00-\u9fff"
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
MADE = re.compile(r"<!-- (?:Made|Simulated) by [^>]*-->.*?<!-- End of what is made\. -->", re.DOTALL)
SEEN = re.compile(r"<!-- English sections: ([0-9a-f ]+) -->\n?\Z")
_SPAN = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Part:
    """A section of a page: its heading with its level (0 before the first), and its text."""

    level: int
    title: str
    text: str


def parts(text: str) -> list[Part]:
    """The sections of a page; what tools write into both languages, comments and heads are left out."""
    text = re.sub(r"<!--.*?-->", "", MADE.sub("", text), flags=re.DOTALL)
    found, level, title, begin, last = [], 0, "", 0, 0
    covered = [match.span() for match in FENCE.finditer(text)]
    for match in re.finditer(r"^(#+) +(.+?) *$", text, re.MULTILINE):
        if not any(low <= match.start() < high for low, high in covered):
            found.append(Part(level, title, text[begin : match.start()]))
            level, title, begin = len(match[1]), match[2], match.end()
        last = len(text)
    return [*found, Part(level, title, text[begin : last or len(text)])]


def anchors(path: str) -> dict[str, str]:
    """The anchors of a page's English headings, as GitHub makes them, and those of the Chinese ones."""
    english, chinese = (parts(page.read_text(encoding="utf-8")) for page in (ROOT / path, translation(path)))
    return {_anchor(one.title): _anchor(other.title) for one, other in zip(english, chinese, strict=False)}


def _anchor(title: str) -> str:
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def digest(part: Part) -> str:
    """What an English section is known by: its words, whatever their lines."""
    return hashlib.sha256(f"{part.title}\n{' '.join(part.text.split())}".encode()).hexdigest()[:8]


def facts(page: Path, part: Part) -> dict[str, object]:
    """What a section has in every language: what must be equal, by its name."""
    prose = _LINK.sub("]", FENCE.sub("", part.text))
    lines = prose.splitlines()
    words = re.sub(r"^\d+\. ", "", _SPAN.sub("", prose), flags=re.MULTILINE)
    return {
        "level": part.level,
        "code": [_code(fence) for fence in FENCE.findall(part.text)],
        "inline code": set(_SPAN.findall(prose)),
        "numbers": Counter(_NUMBER.findall(words.replace("\u2212", "-"))),
        "links": Counter(_goals(page, part.text)),
        "items": sum(re.match(r"(?:[-*]|\d+\.) ", line) is not None for line in lines),
        "tables": [line.count(" |") for line in lines if line.startswith("|")],
        "quotes": any(line.startswith(">") for line in lines),
    }


def _goals(page: Path, text: str) -> Iterator[str]:
    """What links lead to: addresses, or the English page or file of the repository; anchors are left out."""
    for target in _LINK.findall(FENCE.sub("", text)):
        path = target.removeprefix(HOME).removeprefix(RAW).partition("#")[0]
        if re.match(r"[a-z]+:", path):
            yield target
            continue
        base = ROOT if target.startswith((HOME, RAW)) else page.parent
        name = os.path.relpath(os.path.normpath(base / path), ROOT) if path else page.relative_to(ROOT).as_posix()
        yield name.replace("docs/zh/", "docs/", 1).replace("README.zh-CN.md", "README.md")


def _code(fence: str) -> str:
    """A block of code without what may be in the reader's language: comments, and a column of words in Chinese."""
    return "\n".join(re.sub(r"(?:^|\s+)# .*$", "", line).rstrip() for line in fence.splitlines())


def _equal(name: str, english: object, chinese: object) -> bool:
    if name != "code" or not (isinstance(english, list) and isinstance(chinese, list)):
        return english == chinese
    pairs = list(zip("\n".join(english).split("\n"), "\n".join(chinese).split("\n"), strict=False))
    same = len("\n".join(english).split("\n")) == len("\n".join(chinese).split("\n"))
    return same and all(a == b or (re.search(f"[{HAN}]", b) and _first(a) == _first(b)) for a, b in pairs)


def _first(line: str) -> str:
    return line.strip().partition("  ")[0]


def unequal(path: str) -> list[str]:
    """Where a page's Chinese text differs from the English one in what both must have, a sentence each."""
    pages = ROOT / path, translation(path)
    english, chinese = (parts(page.read_text(encoding="utf-8")) for page in pages)
    if [part.level for part in english] != [part.level for part in chinese]:
        shown = ["  ".join(f"{'#' * part.level} {part.title}" for part in side) for side in (english, chinese)]
        return [f"the headings differ:\n      {shown[0]}\n      {shown[1]}"]
    found = []
    for one, other in zip(english, chinese, strict=True):
        here, there = facts(pages[0], one), facts(pages[1], other)
        for name, value in here.items():
            if not _equal(name, value, there[name]):
                found.append(f"{one.title or 'before the first heading'!r}, {name}: {_difference(value, there[name])}")
    return found


def _difference(english: object, chinese: object) -> str:
    if isinstance(english, (set, Counter)) and isinstance(chinese, (set, Counter)):
        only = [sorted(map(str, side)) for side in (english - chinese, chinese - english)]  # type: ignore[operator]
        return f"only in English {only[0]}, only in Chinese {only[1]}"
    return f"{english} in English, {chinese} in Chinese"


def behind(path: str) -> list[str]:
    """The Chinese headings of a page whose English sections have changed since they were looked at."""
    chinese = translation(path).read_text(encoding="utf-8")
    kept = SEEN.search(chinese)
    english = parts((ROOT / path).read_text(encoding="utf-8"))
    own = parts(chinese)
    if kept is None or len(kept[1].split()) != len(english) or len(own) != len(english):
        return [own[1].title if len(own) > 1 else path]
    pairs = zip(english, own, kept[1].split(), strict=True)
    return [part.title or "开头" for one, part, seen in pairs if digest(one) != seen]


def see(path: str) -> None:
    """Note in a Chinese page that it says what the English one says now."""
    file = translation(path)
    text = SEEN.sub("", file.read_text(encoding="utf-8")).rstrip("\n")
    digests = " ".join(digest(part) for part in parts((ROOT / path).read_text(encoding="utf-8")))
    file.write_text(f"{text}\n\n<!-- English sections: {digests} -->\n", encoding="utf-8")


def with_made(path: str) -> str:
    """A page's Chinese text with the tables that tools have written into the English one, in Chinese words."""
    blocks = iter(MADE.findall((ROOT / path).read_text(encoding="utf-8")))
    return MADE.sub(lambda old: in_chinese(next(blocks, old[0])), translation(path).read_text(encoding="utf-8"))


def in_chinese(block: str) -> str:
    """A made block with its phrases, longest first, in the words of docs/zh/phrases.toml; other code stays as it is."""
    phrases = tomllib.loads((ROOT / "docs/zh/phrases.toml").read_text(encoding="utf-8"))["phrases"]
    told = [re.escape(phrase) for phrase in sorted(phrases, key=len, reverse=True)]
    pattern = re.compile("|".join([*told, r"^```.*?^```$", r"<!--.*?-->", r"`[^`\n]*`"]), re.MULTILINE | re.DOTALL)
    return pattern.sub(lambda found: phrases.get(found[0], found[0]), block)


def report() -> list[str]:
    """What is to be done, a line each; pages that may follow later come last."""
    found, later = [], []
    for path in to_translate():
        name = translation(path).relative_to(ROOT)
        if not translation(path).exists():
            found.append(f"{name}: is missing; write it in Chinese")
            continue
        found += [f"{name}: {sentence}" for sentence in unequal(path)]
        if with_made(path) != translation(path).read_text(encoding="utf-8"):
            found.append(f"{name}: a table that is made is stale: python tools/translations.py")
        later += [
            f"{name}: {title!r} is older than the English section; then: python tools/translations.py --seen {path}"
            for title in behind(path)
        ]
    return found + later


def main(arguments: list[str]) -> int:
    """Write what is made, note what was seen, print what is to be done; 1 when a page is missing or unequal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seen", nargs="+", default=[], metavar="PAGE", help="English pages that the Chinese ones follow"
    )
    asked = parser.parse_args(arguments)
    there = [path for path in to_translate() if translation(path).exists()]
    for path in there:
        translation(path).write_text(with_made(path), encoding="utf-8")
    if unknown := sorted(set(asked.seen) - set(there)):
        parser.error(f"{', '.join(unknown)}: no page with a Chinese text; there are {', '.join(there)}")
    for path in asked.seen:
        if wrong := unequal(path):
            parser.error(f"{path}: " + "; ".join(wrong))
        see(path)
    found = report()
    print("\n".join(found) or "Every page has its Chinese text, and none is older than the English one.")
    return 1 if any("older than" not in line for line in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
