"""The page that watches, in a real browser: the system's Chromium, or none, and then it is skipped."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.watch import METHODS, chromium, finish, grow, line, make_compare, make_many, trial

from lowregret.runs.files import ORDERS
from lowregret.runs.lock import lock_run
from lowregret.runs.requests import Request, is_paused, waiting
from lowregret.spec import LoRA
from lowregret.watch.server import watched
from watching import get, serving, state_of

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = chromium()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")
TOKEN = "a-token-of-the-test"
LORA = LoRA(rank=4)
POINTS = """async ([id, curve]) => {
  const { store } = await import("/page/store.js");
  const found = [...store.groups.values()].map(({ trials }) => trials.get(id)).find(Boolean);
  return found[curve].map(([step]) => step);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=120_000)
        yield found
        found.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Callable[..., Any]]:
    """A page of a size; whatever its console says against it fails the test."""
    opened = []
    problems: list[str] = []

    def new(width: int = 1280, height: int = 900, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        found = context.new_page()
        found.set_default_timeout(30_000)
        found.on("pageerror", lambda error: problems.append(str(error)))
        found.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
        opened.append(context)
        return found

    yield new
    for context in opened:
        context.close()
    # A server that is away is what some tests are about.
    assert [problem for problem in problems if "ERR_" not in problem] == []


@pytest.fixture
def running(tmp_path: Path) -> Path:
    """A comparison in training: two trials have ended, one is at step 7."""
    folder = tmp_path / "first try"
    make_compare(folder)
    for method in METHODS[:2]:
        finish(folder, method, 1e-3)
    grow(trial(folder, LORA, 2e-3), range(1, 8))
    return folder


def row(found: Any, text: str) -> Any:
    return found.locator("#trials tbody tr", has_text=text)


def test_a_new_line_shows_within_a_second(page: Any, running: Path) -> None:
    home = trial(running, LORA, 2e-3)
    with serving(running) as url:
        found = page()
        found.goto(url)
        step = row(found, "running").locator(".step")
        playwright.expect(step).to_have_text("7/40")
        taken = []
        for number in range(8, 12):
            began = time.monotonic()
            grow(home, [number])
            playwright.expect(step).to_have_text(f"{number}/40")
            taken.append(time.monotonic() - began)
        assert min(taken) < 1.0, taken


def test_a_restart_of_the_server_loses_and_doubles_nothing(page: Any, running: Path) -> None:
    home = trial(running, LORA, 2e-3)
    found = page()
    with serving(running) as url:
        found.goto(url)
        playwright.expect(row(found, "running").locator(".step")).to_have_text("7/40")
        port = int(url.rpartition(":")[2])
    playwright.expect(found.locator("#connection")).to_contain_text("reconnecting")
    grow(home, range(8, 13))
    with home.joinpath("metrics.jsonl").open("ab") as file:
        file.write(line(13)[:20])
    with serving(running, port=port):
        playwright.expect(row(found, "running").locator(".step")).to_have_text("12/40")
        with home.joinpath("metrics.jsonl").open("ab") as file:
            file.write(line(13)[20:])
        playwright.expect(row(found, "running").locator(".step")).to_have_text("13/40")
        assert found.evaluate(POINTS, [home.name, "train"]) == list(range(1, 14))
        assert found.evaluate(POINTS, [home.name, "held"]) == [5, 10]
        home.joinpath("metrics.jsonl").write_bytes(b"".join(line(step) for step in range(1, 4)))  # from a checkpoint
        playwright.expect(row(found, "running").locator(".step")).to_have_text("3/40")
        assert found.evaluate(POINTS, [home.name, "train"]) == [1, 2, 3]


def test_two_thousand_trials_load_within_two_seconds(page: Any, tmp_path: Path) -> None:
    make_many(tmp_path / "many", 2000, steps=20)
    with serving(tmp_path) as url:
        state_of(url)
        taken = []
        found = page()
        for _ in range(3):
            began = time.monotonic()
            found.goto(url)
            row(found, "running").first.wait_for()
            taken.append(time.monotonic() - began)
            assert found.locator("#trials tbody tr").count() == 100
        assert min(taken) < 2.0, taken
        found.get_by_role("button", name="Show more").click()
        playwright.expect(found.locator("#trials tbody tr")).to_have_count(600)
        found.locator("#f-status").select_option("running")
        playwright.expect(found.locator("#trials tbody tr")).to_have_count(3)


@pytest.mark.parametrize("width", [390, 800, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(page: Any, running: Path, width: int, scheme: str) -> None:
    with serving(running) as url:
        found = page(width, 900, scheme)
        found.goto(url)
        row(found, "running").wait_for()
        assert found.evaluate("document.documentElement.scrollWidth") <= width
        for figure in ("#curves", "#rates"):
            box = found.locator(f"{figure} canvas").bounding_box()
            assert 0 <= box["x"] <= box["x"] + box["width"] <= width
            assert "Best so far" in found.locator(figure).get_attribute("aria-label")
        assert found.locator("h1").text_content() == "first try"


def test_a_trial_is_opened_and_left_by_the_keyboard(page: Any, running: Path) -> None:
    with serving(running) as url:
        found = page()
        found.goto(url)
        row(found, "running").get_by_role("button").focus()
        found.keyboard.press("Enter")
        dialog = found.locator("#detail")
        playwright.expect(dialog.get_by_role("heading", level=2)).to_have_text("LoRA (rank 4), 2e-3, seed 0")
        playwright.expect(dialog.locator("#d-facts")).to_contain_text("trained parameters")
        found.keyboard.press("Escape")
        playwright.expect(dialog).not_to_be_visible()


def test_what_comes_from_elsewhere_is_text(page: Any, running: Path) -> None:
    bad = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    home = trial(running, LORA, 4e-3, status="failed", error=bad)
    rows = [{"step": 4, "prompt": bad, "completion": bad, "reward": 1.0}]
    (home / "transcripts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    with serving(running) as url:
        found = page()
        found.on("dialog", lambda dialog: pytest.fail("a script of a record ran"))
        found.goto(url)
        row(found, "failed").get_by_role("button").click()
        playwright.expect(found.locator("#d-samples pre").first).to_have_text(bad)
        playwright.expect(found.locator("#d-facts")).to_contain_text("onerror")
        assert found.locator("img, #d-samples script").count() == 0


def test_a_run_is_steered_from_the_page(page: Any, running: Path) -> None:
    home = trial(running, LORA, 2.925e-5)
    with lock_run(running), serving(running, token=TOKEN, control=True) as url:
        found = page()
        found.goto(url)
        row(found, "2.92e-5").wait_for()
        assert not found.locator("#actions").is_visible()
        found.get_by_role("button", name="Unlock control").click()
        found.locator("#t-token").fill(TOKEN)
        found.get_by_role("button", name="Unlock", exact=True).click()
        found.get_by_role("button", name="Pause").click()
        playwright.expect(found.get_by_role("button", name="Go on")).to_be_visible()
        assert is_paused(running)
        found.get_by_role("button", name="Go on").click()
        playwright.expect(found.get_by_role("button", name="Pause")).to_be_visible()
        assert not is_paused(running)
        row(found, "2.92e-5").get_by_role("button").click()
        found.get_by_role("button", name="Clone with changes").click()
        assert float(found.locator("#n-rate").input_value()) == 2.925e-5, "every digit: else it is another rate"
        found.locator("#n-rate").fill("5e-4")
        found.get_by_role("button", name="Ask for it").click()
        stop = found.get_by_role("button", name="Stop this trial")
        stop.click()
        found.get_by_role("button", name="Really stop it").click()
        playwright.expect(found.locator("#d-said")).to_contain_text("Asked")
        asked = list(waiting(running).values())
        assert [one.kind for one in asked if isinstance(one, Request)] == ["trial", "stop"]
        assert isinstance(asked[0], Request)
        assert asked[0].spec is not None
        assert (asked[0].spec.learning_rate, asked[0].spec.method) == (5e-4, LORA)
        name = next(iter(waiting(running)))
        answer = {"id": name, "when": "2026-11-30T05:00:00+00:00", "request": None, "taken": False, "said": "not now"}
        (running / ORDERS).write_text(json.dumps(answer) + "\n")
        playwright.expect(found.locator("#orders")).to_contain_text("refused not now")
    assert home.exists()


def test_a_page_beside_a_run_goes_with_it(tmp_path: Path) -> None:
    said: list[str] = []
    with watched([tmp_path / "later"], said.append):
        url = said[0].removeprefix("watch: ").rstrip("/")
        assert state_of(url)["runs"] == []
        make_compare(tmp_path / "later")
        end = time.monotonic() + 20
        while not state_of(url)["runs"] and time.monotonic() < end:
            time.sleep(0.1)
        (run,) = state_of(url)["runs"]
        assert run["name"] == "later"
    with pytest.raises(OSError, match="refused"):
        get(url)


def test_before_the_first_evaluation_the_training_curves_are_shown(page: Any, tmp_path: Path) -> None:
    make_compare(tmp_path / "young")
    home = trial(tmp_path / "young", LORA, 2e-3)
    grow(home, [1, 2])
    with serving(tmp_path) as url:
        found = page()
        found.goto(url)
        curves = found.locator("#curves")
        playwright.expect(curves).to_have_attribute("aria-label", re.compile("^1 curve of loss in training"))
        assert not found.locator("#p-rates").is_visible()
        grow(home, [3, 4, 5])
        playwright.expect(curves).to_have_attribute("aria-label", re.compile("^1 curve of loss held out"))
        playwright.expect(found.locator("#p-rates")).to_be_visible()
