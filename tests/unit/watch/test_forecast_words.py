"""Which forecast the live page shows beside the regret, and in which words: its own script, run by Node.

Skipped without Node.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="no Node here")
PAGE = files("lowregret.watch").joinpath("page")
KNOWN = {"method": "lora:4", "share": [0.1, 0.05, 0.2], "regret": 0.05, "low": 0.01, "high": 0.1}
FREE = {"method": "lora:1", "share": [0.07, -0.01, 0.2]}
WIDE = {"method": "lora:16"}


def shown(folder: Path, run: dict[str, Any]) -> tuple[Any, str]:
    """(the forecast that is drawn, the words)."""
    assert NODE is not None
    for name in ("forecast.js", "format.js"):
        (folder / name).write_bytes(PAGE.joinpath(name).read_bytes())
    (folder / "package.json").write_text('{"type": "module"}')
    asked = (
        'import { forecastOf, forecastWords } from "./forecast.js";'
        f"const run = {json.dumps(run)};"
        "console.log(JSON.stringify([forecastOf(run), forecastWords(run)]));"
    )
    (folder / "asked.js").write_text(asked)
    ended = subprocess.run([NODE, "asked.js"], cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    chosen, words = json.loads(ended.stdout)
    return chosen, words


def run(*of: dict[str, Any], best: str | None = None, step: int = 8) -> dict[str, Any]:
    points = [] if best is None else [{"method": "lora:2", "regret": 1.0}, {"method": best, "regret": 0.1}]
    return {"regret": points, "forecast": {"of": list(of), "step": step, "steps": 40, "level": 0.9}}


def test_the_forecast_is_that_of_the_lora_whose_regret_stands_beside_it(tmp_path: Path) -> None:
    chosen, words = shown(tmp_path, run(WIDE, FREE, KNOWN, best="lora:4"))
    assert chosen == KNOWN
    assert words == "Forecast of lora:4, by pilots of 8 steps: +0.0500 nats (+0.0100 to +0.1000)."
    chosen, words = shown(tmp_path, run(KNOWN, best="lora:8"))
    assert chosen is None
    assert words == "Of lora:8 nothing was forecast."


def test_a_free_forecast_and_none_are_said(tmp_path: Path) -> None:
    _, words = shown(tmp_path, run(KNOWN, FREE, best="lora:1", step=0))
    assert words == (
        "Forecast of lora:1, before any training: +7.0 % of what full fine-tuning learns (−1.0 % to +20.0 %)."
    )
    _, words = shown(tmp_path, run(KNOWN, WIDE, best="lora:16"))
    assert words == "Forecast of lora:16: nothing is forecast, for the bank has too little that is like this case."


def test_before_a_regret_is_known_all_of_them_are_named(tmp_path: Path) -> None:
    chosen, words = shown(tmp_path, run(KNOWN, WIDE))
    assert chosen is None
    assert words.count("Forecast of ") == 2
    assert shown(tmp_path, run(KNOWN))[0] == KNOWN
    assert shown(tmp_path, {"regret": []}) == (None, "")
