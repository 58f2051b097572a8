"""The functions of the Python API take paths as they are, and say in words what is no data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lowregret
from lowregret.errors import SpecError
from lowregret.models.files import BUNDLED


def rows(path: Path, first: int) -> Path:
    numbers = range(first, first + 12)
    path.write_text("".join(json.dumps({"text": f"{n} plus one is {n + 1}."}) + "\n" for n in numbers))
    return path


@pytest.mark.parametrize("as_table", [False, True])
def test_paths_are_taken_as_the_text_that_they_are(tmp_path: Path, as_table: bool) -> None:
    train, held_out = rows(tmp_path / "train.jsonl", 0), rows(tmp_path / "eval.jsonl", 100)
    data: Any = {"train": train, "eval": held_out} if as_table else train
    base, out = BUNDLED / "tiny", tmp_path / "out"
    found = lowregret.fine_tune(base, data, method="lora:1", learning_rate=1e-3, steps=1, out=out, quiet=True)
    assert found.status == "finished"
    spec = json.loads((out / "spec.json").read_text())["spec"]
    assert (spec["model"], spec["data"]["train"]) == (str(base), str(train))


@pytest.mark.parametrize("data", [None, 7, ["a.jsonl"]])
def test_what_is_no_data_is_an_error_in_words(tmp_path: Path, data: Any) -> None:
    with pytest.raises(SpecError, match=f"data: {type(data).__name__} where a source of rows is needed"):
        lowregret.compare("tiny", data, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
