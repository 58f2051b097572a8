"""The recipes that come with the package: commented TOML files for everyday jobs and the questions of the post."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from lowregret.errors import SpecError, did_you_mean
from lowregret.spec.base import read_toml

_FOLDER = "lowregret.recipes"


@dataclass(frozen=True)
class Recipe:
    """One file, by its name without `.toml`."""

    name: str
    path: Path

    @property
    def sentence(self) -> str:
        """What it does: the first comment line of the file."""
        first = self.path.read_text(encoding="utf-8").partition("\n")[0]
        return first.removeprefix("#").strip()

    @property
    def verb(self) -> str:
        """Of `lowregret`, the verb that takes it."""
        values = read_toml(self.path)
        if "kind" in values:
            return "study"
        return "compare" if "methods" in values else "train"


def recipes() -> dict[str, Recipe]:
    """All, by name."""
    folder = Path(str(resources.files(_FOLDER)))
    return {path.stem: Recipe(path.stem, path) for path in sorted(folder.glob("*.toml"))}


def find_recipe(name: str, verb: str) -> Recipe:
    """A verb's recipe; SpecError lists the nearest of those that the verb takes."""
    known = recipes()
    fitting = [other for other, recipe in known.items() if recipe.verb == verb]
    if name not in known:
        raise SpecError(f"--recipe {name!r}: there is no such recipe. {did_you_mean(name, fitting)}")
    if (taker := known[name].verb) != verb:
        raise SpecError(f"--recipe {name!r}: is for `lowregret {taker}`. {did_you_mean(name, fitting)}")
    return known[name]
