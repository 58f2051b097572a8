"""Where a reward function of the user's own is, and the hash by which a run knows it again. Nothing is imported.

It is in a file under the working folder, so that a spec alone cannot name what is installed on a machine.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from lowregret.errors import SpecError
from lowregret.foreign import real_path

USAGE = "MODULE:FUNCTION or FILE.py:FUNCTION"
_INSTALLED = ("site-packages", "dist-packages")


def is_function(spelling: str) -> bool:
    """Whether a task is spelled as a function of the user's own: `USAGE`."""
    module, colon, name = spelling.rpartition(":")
    named = module.endswith(".py") or all(part.isidentifier() for part in module.split("."))
    return bool(colon) and named and name.isidentifier() and module not in ("builtin", "gym")


def source_file(spelling: str) -> Path:
    """The file of a function's module, with symbolic links followed.

    SpecError when there is none under the working folder, or it belongs to Python or an installed package.
    """
    module = spelling.rpartition(":")[0]
    here = Path.cwd().resolve()
    places = [here / module] if module.endswith(".py") else _places(here, module.split("."))
    found = next((real_path(place) for place in places if place.is_file()), None)
    if found is None:
        raise SpecError(
            f"task {spelling!r}: there is no {' or '.join(_relative(place, here) for place in places)} in the working "
            f"folder. A reward function comes from a file under it, not from Python or an installed package. {_REMEDY}"
        )
    if why := outside(found):
        raise SpecError(f"task {spelling!r}: {found} {why}. {_REMEDY}")
    return found


_REMEDY = f"Put the function in a file under the folder that you run from, and name it by --task {USAGE}."


def outside(file: Path) -> str | None:
    """Why a file, links followed, is none of the user's own under the working folder; None when it is one."""
    library = Path(sysconfig.get_path("stdlib")).resolve()
    if set(_INSTALLED) & set(file.parts) or file.is_relative_to(library):
        return "belongs to Python or to an installed package"
    return None if file.is_relative_to(Path.cwd().resolve()) else "is not under the working folder"


def reward_source(spelling: str) -> dict[str, str]:
    """File → SHA-256 of a reward function's source, its own file first; {} for other tasks.

    The others are the files under the working folder that its file imports, and those import in turn, wherever in them
    they do. Paths are relative to the working folder. SpecError as of `source_file`, or for a file that is no Python.
    """
    if not is_function(spelling):
        return {}
    here = Path.cwd().resolve()
    first = source_file(spelling)
    hashes: dict[Path, str] = {}
    waiting = [first]
    while waiting:
        file = waiting.pop()
        if file in hashes:
            continue
        try:
            content = file.read_bytes()
            names = list(_imported(ast.parse(content), file, here))
        except (OSError, SyntaxError, ValueError) as error:
            raise SpecError(f"task {spelling!r}: {_relative(file, here)} cannot be read: {error}.") from None
        hashes[file] = hashlib.sha256(content).hexdigest()
        waiting += names
    ordered = [first, *sorted(hashes.keys() - {first})]
    return {_relative(file, here): hashes[file] for file in ordered}


def _imported(tree: ast.Module, file: Path, here: Path) -> Iterator[Path]:
    """The files under the working folder that a file's imports name, packages on the way to them included."""
    for node in ast.walk(tree):
        names: list[list[str]] = []
        roots = [here, file.parent]
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            names = [base, *([*base, alias.name] for alias in node.names)]
            roots = roots if not node.level else [file.parents[min(node.level, len(file.parents)) - 1]]
        for parts in names:
            for root in roots:
                for length in range(1, len(parts) + 1):
                    for place in _places(root, parts[:length]):
                        found = real_path(place)
                        if place.is_file() and outside(found) is None:
                            yield found


def _places(root: Path, parts: Sequence[str]) -> list[Path]:
    """Where the module of this name is, as a file or as a package."""
    place = root.joinpath(*parts)
    return [place.with_name(f"{place.name}.py"), place / "__init__.py"]


def _relative(file: Path, here: Path) -> str:
    return file.relative_to(here).as_posix() if file.is_relative_to(here) else file.as_posix()
