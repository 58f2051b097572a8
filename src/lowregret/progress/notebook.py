"""What a notebook shows while something runs: lines that stay, and one place that changes."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from lowregret.progress.console import CleanConsole

_WIDTH = 110
"""Columns."""
_PRE = (
    '<pre style="white-space:pre-wrap;overflow-x:auto;line-height:normal;'
    "font-family:Menlo,'DejaVu Sans Mono',consolas,'Courier New',monospace\"><code>{code}</code></pre>"
)
_SECONDS, _LOOK_SECONDS = 0.5, 1.0
"""Between two changes; and between two looks at what takes long."""


class NotebookLive:
    """As rich's Live, by the notebook's own display: it needs no widgets, and a saved notebook shows how it ended."""

    def __init__(self, busy: Callable[[], bool] = lambda: False) -> None:
        """While it is `busy`, what changes is shown without being told that it has."""
        self._busy = busy
        self._over = threading.Event()
        self._drawing = threading.Lock()
        self._kept: list[RenderableType] = []
        self._now: RenderableType = Text("")
        self._handle: Any = None
        self._shown = 0.0

    def start(self) -> None:
        from IPython.display import HTML, display

        self._handle = display(HTML(self._html()), display_id=True)
        threading.Thread(target=self._look, name="lowregret-notebook", daemon=True).start()

    def stop(self) -> None:
        self._over.set()
        self._show()

    def update(self, renderable: RenderableType) -> None:
        """Show this below the lines that stay."""
        self._now = renderable
        if time.monotonic() - self._shown >= _SECONDS:
            self._show()

    def keep(self, renderable: RenderableType) -> None:
        """Show this for good."""
        self._kept.append(renderable)
        self._show()

    def _look(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            if self._busy():
                self._show()

    def _show(self) -> None:
        from IPython.display import HTML

        with self._drawing:
            self._shown = time.monotonic()
            if self._handle is not None:
                self._handle.update(HTML(self._html()))

    def _html(self) -> str:
        return as_html(*self._kept, self._now)


def as_html(*renderables: RenderableType) -> str:
    """As a page shows it: self-contained, escaped, with colours in place."""
    console = CleanConsole(
        record=True, file=io.StringIO(), width=_WIDTH, force_terminal=True, force_jupyter=False, highlight=False,
        markup=False, emoji=False,
    )  # fmt: skip
    for each in renderables:
        console.print(each)
    return console.export_html(inline_styles=True, code_format=_PRE)
