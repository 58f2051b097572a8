"""`lowregret recipes`."""

from __future__ import annotations

from lowregret.cli import options as o
from lowregret.cli.command import verb
from lowregret.cli.outcome import say_json
from lowregret.spec.recipes import recipes as shipped


@verb("recipes")
def recipes(*, as_json: o.Json = False) -> None:
    """`lowregret compare --recipe NAME` and `lowregret train --recipe NAME` run one, under the flags that follow;
    `lowregret study NAME` answers one of the questions.
    """
    found = list(shipped().values())
    if as_json:
        say_json([{"name": r.name, "verb": r.verb, "sentence": r.sentence, "file": str(r.path)} for r in found])
        return
    from rich.table import Table
    from rich.text import Text

    from lowregret.progress.console import make_console

    table = Table(box=None, pad_edge=False)
    for column in ("recipe", "command", "what it does"):
        table.add_column(column)
    for recipe in sorted(found, key=lambda recipe: (_ORDER.index(recipe.verb), recipe.name)):
        table.add_row(recipe.name, recipe.verb, Text(recipe.sentence))
    make_console().print(table)


_ORDER = ("compare", "train", "study")
