"""A study's folder in which a file is not what it should be: named with the remedy, whichever file and field it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lowregret.errors import LowregretError, RecordsError
from lowregret.questions.evidence import read_evidence
from lowregret.questions.judge import judge_study
from lowregret.report.verification import verify_folder

NOTHINGS: tuple[Any, ...] = ([], {}, "x", 5, None, [5], {"x": 5})
NO_VALUES: tuple[Any, ...] = ("x", None, [], -1)


def spoilt(value: Any) -> Iterator[Any]:
    """Other things in the place of a file's value, or of one of its fields."""
    yield from NOTHINGS
    for key in value if isinstance(value, dict) else ():
        yield {name: part for name, part in value.items() if name != key}
        yield from (value | {key: nothing} for nothing in NO_VALUES)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("variants", ("study.json", "base.json", "trial.json", "examples.json", "forgetting.json")),
        ("compute", ("study.json", "width-00*.json")),
        ("learning-rate", ("base.json",)),
    ],
)
def test_whatever_is_wrong_ends_in_a_named_error(
    every_study: Path, tmp_path: Path, kind: str, names: tuple[str, ...]
) -> None:
    study = Path(shutil.copytree(every_study / kind, tmp_path / "study"))
    refused = 0
    for name in names:
        file = sorted(study.rglob(name))[0]
        before = file.read_text()
        for value in spoilt(json.loads(before)):
            file.write_text(json.dumps(value))
            try:
                judge_study(read_evidence(study))
            except LowregretError as error:
                refused += str(file) in str(error)
        file.write_text(before)
    assert refused > 10


@pytest.mark.parametrize(
    ("kind", "name", "value", "words"),
    [
        ("variants", "groups/*/base.json", {"test_nll": 2.0}, "'hidden_size'"),
        ("variants", "groups/*/base.json", {"test_nll": 2.0, "hidden_size": None}, "'hidden_size'"),
        ("variants", "groups/*/trials/*/forgetting.json", {}, "field 'test_nll'"),
        ("variants", "groups/*/trials/*/forgetting.json", [1.0], "valid dictionary"),
        ("variants", "groups/*/trials/*/forgetting.json", {"test_nll": "x"}, "field 'test_nll'"),
        ("compute", "timings/*.json", {"width": 64}, "field 'full_seconds'"),
        ("compute", "timings/*.json", [], "valid dictionary"),
        ("variants", "study.json", {"question": {"kind": "variants"}, "command": 5}, "field 'command'"),
    ],
)
def test_the_file_and_the_field_are_named_with_the_remedy(
    every_study: Path, tmp_path: Path, kind: str, name: str, value: Any, words: str
) -> None:
    study = Path(shutil.copytree(every_study / kind, tmp_path / "study"))
    file = sorted(study.glob(name))[0]
    file.write_text(json.dumps(value))
    for read in (read_evidence, verify_folder):
        with pytest.raises(RecordsError) as told:
            read(study)
        assert str(told.value).startswith(f"{file}: ")
        assert words in str(told.value)
        assert "Delete" in str(told.value)


@pytest.mark.parametrize("stated", ["x", 5, [5], [{"key": "x"}], {}])
def test_what_was_stated_before_a_run_must_be_claims(every_study: Path, tmp_path: Path, stated: Any) -> None:
    study = Path(shutil.copytree(every_study / "variants", tmp_path / "study"))
    head = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps(head | {"claims": stated}))
    with pytest.raises(RecordsError, match=r"study\.json: field 'claims"):
        verify_folder(study)
