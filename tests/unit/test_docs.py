"""The pages hold together: links and anchors resolve, and a section of the science that is named is there."""

from __future__ import annotations

import re
import tomllib
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
# What stands in a draft for a figure that is still to come: a reminder, or in capitals the name of what is measured.
PLACEHOLDER = re.compile(
    r"(?<![\w-])(?:TODO|TBD|FIXME|XXX|NUMBER|LINEAR|ATTENTION|FULL|LOSS|RATE|REGRET)(?![\w-])|\?\?\?"
)
# What SCIENCE and DESIGN were called before they were pages of the repository.
OUTSIDE = re.compile(r"\b(?:SCIENCE|DESIGN)\.md\b")


def texts(*endings: str) -> list[Path]:
    """What is written by hand: source, tests, recipes and pages."""
    folders = ("src", "docs", "recipes", "tests", "tools", "benchmarks", "examples")
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


def placeholders(text: str) -> list[str]:
    """Those of a page's prose; code may hold what it likes."""
    return PLACEHOLDER.findall(re.sub(r"`[^`\n]*`", "", FENCE.sub("", text)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_figure_is_left_to_be_filled_in(page: Path) -> None:
    assert placeholders(page.read_text(encoding="utf-8")) == []


def test_the_search_for_placeholders_finds_them() -> None:
    left = "The regret of `lora:16` is 0.1, that of `lora:16:linear` LINEAR, and TBD. `LOSS` and LOSS-FREE are none.\n"
    assert placeholders(f"{left}```\n# TODO\n```\n") == ["LINEAR", "TBD"]


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


# --- modules and paths that are named -----------------------------------------------------------------------------

MODULE = re.compile(r"\bpython3? -m ([\w.]*\w)")
FOREIGN_MODULES = {"pip", "pytest", "build", "twine", "http.server"}
NAMED_PATH = re.compile(r"(?<![\w/.<-])(?:src|tests|tools|docs|benchmarks|examples|recipes)/[\w./-]*")
ROOMS = sorted(path.name for path in (ROOT / "src/lowregret").iterdir() if (path / "__init__.py").exists())
NAMED_IN_A_ROOM = re.compile(rf"(?<=`)((?:{'|'.join(ROOMS)})/[\w./-]*)(?=[`:])")
HISTORY = ("docs/findings", "docs/results", "CHANGELOG.md")
"""Pages that say how something was, or was called."""
PATTERNS = {"docs/findings/YYYY-MM-DD-slug.md"}


def is_history(page: Path) -> bool:
    return any(page.is_relative_to(ROOT / name) for name in HISTORY)


def module_exists(name: str) -> bool:
    """Whether `python -m NAME` starts something of the repository."""
    place = name.replace(".", "/")
    return any((base / f"{place}{end}").exists() for base in (ROOT, ROOT / "src") for end in (".py", "/__main__.py"))


def lost_paths(text: str) -> list[str]:
    """Files and folders of the repository that a text names and that are not there."""
    named = {name.rstrip(".") for name in NAMED_PATH.findall(text)} - PATTERNS
    return sorted(name for name in named if not (ROOT / name).exists())


def lost_rooms(text: str) -> list[str]:
    """The same for what is named from src/lowregret on, in backticks; NAME stands for any folder."""
    lost = []
    for name in NAMED_IN_A_ROOM.findall(text):
        # `runs/demo` is the user's.
        if (not name.startswith("runs/") or name.endswith(".py")) and not any(
            (ROOT / "src/lowregret").glob(name.replace("NAME", "*"))
        ):
            lost.append(name)
    return lost


def test_every_module_that_a_command_starts_is_there() -> None:
    """On the findings, too: their commands are spelled for the tree as it is."""
    lost = []
    for path in [ROOT / "Makefile", *texts(".md", ".toml", ".py")]:
        if path not in (Path(__file__), ROOT / "CHANGELOG.md"):
            named = set(MODULE.findall(path.read_text(encoding="utf-8"))) - FOREIGN_MODULES
            lost += [f"{path.relative_to(ROOT)}: {name}" for name in named if not module_exists(name)]
    assert lost == []


@pytest.mark.parametrize(
    "page", [page for page in texts(".md") if not is_history(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert lost_paths(text) == []
    if page in (ROOT / "CONTRIBUTING.md", ROOT / "docs/design.md", *(ROOT / "docs/guides").iterdir()):
        assert lost_rooms(text) == []


def test_the_search_for_lost_modules_and_paths_finds_them() -> None:
    assert MODULE.findall("`python -m tools.gone x`, python -m pytest.") == ["tools.gone", "pytest"]
    assert not module_exists("tools.gone")
    assert module_exists("tools.pretrain")
    assert module_exists("benchmarks.bench")
    text = "`src/lowregret/gone.py`, tests/unit/, [x](docs/index.md), see tools/gone.py. ../docs/gone.md"
    assert lost_paths(text) == ["src/lowregret/gone.py", "tools/gone.py"]
    assert lost_rooms("`cli/gone.py`, `cli/app.py`, `questions/NAME/`, `runs/demo`, `runs/gone.py`") == [
        "cli/gone.py",
        "runs/gone.py",
    ]


def test_a_source_names_the_page_of_a_measurement_and_not_the_index() -> None:
    indexes = {ROOT / "docs/pages.toml", ROOT / "tools/pages.py", Path(__file__)}
    sources = [path for path in texts(".py", ".toml") if path not in indexes]
    assert [str(path) for path in sources if "FINDINGS.md" in path.read_text(encoding="utf-8")] == []


def test_the_table_of_layers_is_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["id"] == "layers")
    rooms = [re.findall(r"\w+", layer) for layer in layers if not layer.startswith("(") or layer == "(api)"]
    table = (ROOT / "docs/design.md").read_text("utf-8").partition("## Layers")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert [re.findall(r"\w+", row) for row in rows] == rooms


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
