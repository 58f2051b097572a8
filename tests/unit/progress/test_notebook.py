"""In a notebook one place changes, lines stay, and what takes long moves by itself."""

from __future__ import annotations

import sys
import time
from types import ModuleType, SimpleNamespace

import pytest
from rich.text import Text

from lowregret.progress import notebook as module
from lowregret.progress.notebook import NotebookLive, as_html


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every state of the one place that changes."""
    pages: list[str] = []

    def display(page: str, display_id: bool) -> SimpleNamespace:
        assert display_id
        pages.append(page)
        return SimpleNamespace(update=pages.append)

    fake = ModuleType("IPython.display")
    fake.HTML, fake.display = str, display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    return pages


def test_lines_stay_and_what_happens_now_goes(shown: list[str]) -> None:
    live = NotebookLive()
    live.start()
    live.keep(Text("price: <b>16</b> trials"))
    live.update(Text("step 1/9"))
    live.update(Text("step 2/9"))
    assert "step" not in "".join(shown), "not more often than can be read"
    live.keep(Text("timed"))
    assert "step 2/9" in shown[-1]
    live.update(Text(""))
    live.stop()
    assert "price: &lt;b&gt;16&lt;/b&gt; trials" in shown[-1]
    assert "step" not in shown[-1]


def test_while_it_is_busy_it_is_drawn_again(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.02)
    busy = [True]
    live = NotebookLive(lambda: busy[0])
    live.start()
    time.sleep(0.3)
    busy[0] = False
    time.sleep(0.05)
    drawn = len(shown)
    assert drawn > 3
    time.sleep(0.1)
    live.stop()
    assert len(shown) == drawn + 1


def test_a_page_is_one_block_without_scripts() -> None:
    page = as_html(Text("<script>alert(1)</script>", style="bold red"))
    assert page.startswith("<pre")
    assert "<script" not in page
    assert "http" not in page
