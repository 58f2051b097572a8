"""examples/quickstart.ipynb, run as a notebook runs it: its lesson holds, and what it shows is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The code cells, with their outputs."""
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
            patch.setenv(name, str(folder / name.lower()))
        notebook = nbformat.read(QUICKSTART, as_version=4)
        resources = {"metadata": {"path": str(folder)}}
        nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _html(cell: Any) -> str:
    return "".join(output["data"].get("text/html", "") for output in cell.outputs if "data" in output)


def _text(cell: Any) -> str:
    return "".join(output["text"] for output in cell.outputs if output.output_type == "stream")


def test_one_learning_rate_for_both_misleads_and_each_its_own_does_not(cells: list[Any]) -> None:
    gaps = {float(rate): float(gap) for rate, gap in re.findall(r"^([\d.e-]+) .* ([+-][\d.]+)$", _text(cells[1]), re.M)}
    assert gaps[0.002] > 0.1, "full fine-tuning looks far better"
    assert gaps[0.008] < -0.1, "LoRA looks far better"
    share = re.search(r"nats, (-?\d+)% of what", _text(cells[2]))
    assert share is not None
    assert abs(int(share[1])) < 10


def test_progress_and_results_are_shown_and_nothing_else(cells: list[Any]) -> None:
    assert all("Warning" not in _text(cell) for cell in cells)
    progress = _html(cells[0])
    assert "price: about 12 trials" in progress
    assert len(re.findall("finished|diverged", progress)) == 12
    for cell, shown in (
        (cells[3], "Not settled"),
        (cells[4], "trainable parameters"),
        (cells[5], "lora:16, learning rate"),
    ):
        assert shown in _html(cell)
        assert "<script" not in _html(cell)
        assert "http" not in _html(cell)
