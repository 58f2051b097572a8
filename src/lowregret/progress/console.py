"""The console that everything is shown on."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from lowregret.foreign_text import shown


def make_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Words wrapped on a terminal; elsewhere, lines as they are."""
    console = CleanConsole(stderr=stderr, quiet=quiet, highlight=False, markup=False, emoji=False)
    console.soft_wrap = not console.is_terminal
    return console


class CleanConsole(Console):
    """A console whose own orders alone reach the terminal: none of the text that it shows."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)
