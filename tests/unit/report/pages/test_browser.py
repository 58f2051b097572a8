"""The page in a browser: its policy lets its own script run, and the script shows, sorts and saves. Skipped without
Chromium."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
ASKED = """<pre id="found"></pre><script>
(async () => {
  const found = {};
  const plot = document.querySelector("#figure-rates .plot");
  const mark = matchMedia("(max-width: 44rem)").matches
    ? plot.querySelector(".narrow .tipped") : plot.querySelector(".wide [data-tip]");
  mark.scrollIntoView();
  await new Promise((done) => setTimeout(done, 50));
  const box = mark.getBoundingClientRect();
  plot.dispatchEvent(new PointerEvent("pointermove", { clientX: box.x + 3, clientY: box.y + 3 }));
  const tip = document.querySelector(".tip");
  found.tip = tip.hidden ? null : tip.textContent;
  plot.dispatchEvent(new PointerEvent("pointerleave"));
  found.left = tip.hidden;
  const table = document.querySelector("table.sortable");
  const heads = [...table.tHead.rows[0].cells];
  const column = heads.findIndex((head) => head.textContent === "Test NLL");
  const shown = () => [...table.tBodies[0].rows].map((row) => row.cells[column].dataset.key);
  heads[column].querySelector("button").click();
  found.up = shown();
  heads[column].querySelector("button").click();
  found.down = shown();
  URL.createObjectURL = (blob) => { found.blob = blob; return "#"; };
  document.querySelector("#figure-rates .save").click();
  found.svg = await found.blob.text();
  delete found.blob;
  found.wider = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  document.getElementById("found").textContent = JSON.stringify(found);
})();
</script>"""


def dom(page: Path, *flags: str) -> str:
    """What a browser makes of a page."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", *flags]
    command += ["--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.fixture(scope="module", params=["1200", "600"])
def found(page: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the page does when it is used, wide and narrow, in a copy without its policy, which admits no script that
    asks."""
    copy = tmp_path_factory.mktemp("browser") / "page.html"
    copy.write_text(POLICY.sub("", page).replace("</body>", f"{ASKED}</body>"), encoding="utf-8")
    told = re.search(r'<pre id="found">(.+?)</pre>', dom(copy, f"--window-size={request.param},900"), re.S)
    assert told is not None, "the script did not come to its end"
    answers: dict[str, Any] = json.loads(html.unescape(told[1]))
    return answers


def test_the_policy_lets_the_page_run_its_own_script(folder: Path, page: str) -> None:
    assert POLICY.search(page)
    assert '<html lang="en" class="js">' in dom(folder / "report.html")


def test_a_mark_says_what_it_is_under_the_pointer(found: dict[str, Any]) -> None:
    assert re.fullmatch(r".+ at \S+, seed \d+: \d\.\d{4}", found["tip"])
    assert found["left"]


def test_the_table_of_trials_is_sorted_both_ways_and_what_is_missing_comes_last(found: dict[str, Any]) -> None:
    up = [float(key) for key in found["up"] if key]
    assert up == sorted(up)
    assert [float(key) for key in found["down"] if key] == up[::-1]
    assert "" in found["up"]
    assert found["up"][len(up) :] == found["down"][len(up) :] == [""] * (len(found["up"]) - len(up))


def test_a_saved_figure_stands_alone(found: dict[str, Any]) -> None:
    drawing = ElementTree.fromstring(found["svg"])
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in found["svg"]
    assert "#0066bb" in found["svg"]
    assert "best at 1e-3" in (drawing.findtext("{http://www.w3.org/2000/svg}desc") or "")
    assert drawing.findtext(".//{http://www.w3.org/2000/svg}title")


def test_nothing_is_wider_than_the_page(found: dict[str, Any]) -> None:
    assert found["wider"] == 0
