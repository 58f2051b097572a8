"""What a folder's spec.json is taken to say: checked as what is typed is, and named where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lowregret.errors import RecordsError
from lowregret.runs.extension import as_begun, extend_spec, known_choices
from lowregret.runs.lock import stored_spec
from lowregret.spec import CompareSpec, TrainSpec, build

ASKED = {"model": "tiny", "data": {"train": "rows.jsonl"}, "steps": 12}
RESOLVED = {
    "steps": 12,
    "train_examples": 90,
    "test_examples": 10,
    "train_data": "a",
    "test_data": "b",
    "device": "cpu",
    "dtype": "float32",
    "evals": [6, 12],
    "priors": {"full": 1e-4, "lora:16": 1e-3},
}


def spec(**fields: Any) -> CompareSpec:
    return build(CompareSpec, ASKED | fields)


def begun(folder: Path, asked: CompareSpec | None = None, **head: Any) -> Path:
    plain = (asked or spec()).model_dump(mode="json")
    file = folder / "spec.json"
    plain |= head.pop("spec", {})
    resolved = RESOLVED | head.pop("resolved", {})
    file.write_text(json.dumps({"lowregret": "0.3.0", "command": "x", "spec": plain, "resolved": resolved, **head}))
    return file


def test_what_a_folder_was_begun_with_is_kept(tmp_path: Path) -> None:
    begun(tmp_path, spec(evals=(3, 9), tolerance=0.25))
    said: list[str] = []
    found = as_begun(tmp_path, spec(), said.append)
    assert (found.evals, found.tolerance) == ((3, 9), 0.25)
    assert len(said) == 1
    assert as_begun(tmp_path, spec(evals=4, tolerance=0.1), said.append).evals == 4
    assert len(said) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("evals", "x"),
        ("evals", 0),
        ("evals", [1, "x"]),
        ("evals", {"a": 1}),
        ("evals", None),
        ("tolerance", "much"),
        ("tolerance", -1),
        ("tolerance", None),
        ("tolerance_of", "all"),
    ],
)
def test_nothing_is_taken_over_that_could_not_be_asked_for(tmp_path: Path, field: str, value: Any) -> None:
    file = begun(tmp_path, spec={field: value})
    with pytest.raises(RecordsError, match=f"{field}: ") as told:
        as_begun(tmp_path, spec(), lambda line: None)
    assert str(told.value).startswith(f"{file}: ")
    assert "Bring the file back as it was, or use another --out." in str(told.value)


def test_of_a_training_too(tmp_path: Path) -> None:
    begun(tmp_path, spec={"evals": "x"})
    with pytest.raises(RecordsError, match=r"spec\.json: evals: "):
        as_begun(tmp_path, build(TrainSpec, ASKED), lambda line: None)


@pytest.mark.parametrize(
    ("head", "field"),
    [
        ({"resolved": {"evals": "x"}}, "resolved.evals"),
        ({"resolved": {"evals": [0]}}, "resolved.evals.0"),
        ({"resolved": {"test_examples": "10"}}, "resolved.test_examples"),
        ({"resolved": {"search_examples": [1]}}, "resolved.search_examples"),
        ({"resolved": {"test_data": 5}}, "resolved.test_data"),
        ({"resolved": {"priors": [1e-4]}}, "resolved.priors"),
        ({"resolved": {"priors": {"full": "x"}}}, "resolved.priors.full"),
        ({"resolved": {"priors": {"full": -1}}}, "resolved.priors.full"),
        ({"extended": "x"}, "extended"),
        ({"extended": ["x"]}, "extended.0"),
        ({"spec": {"data": "x"}}, "spec.data"),
        ({"spec": {"data": {"train": "x", "max_eval": "y"}}}, "spec.data.max_eval"),
        ({"spec": {"methods": 5}}, "spec.methods"),
        ({"command": 5}, "command"),
    ],
)
def test_a_field_that_is_not_what_it_can_be_is_named(tmp_path: Path, head: dict[str, Any], field: str) -> None:
    file = begun(tmp_path, **head)
    with pytest.raises(RecordsError) as told:
        stored_spec(file)
    assert str(told.value).startswith(f"{file}: field '{field}': ")
    assert as_begun(tmp_path, spec(), lambda line: None) == spec()
    assert known_choices(tmp_path) is None
    with pytest.raises(RecordsError, match=field.replace(".", r"\.")):
        extend_spec(tmp_path, spec(seeds=3), RESOLVED, "x", lambda count: "b")


@pytest.mark.parametrize("name", ["test_examples", "test_data"])
def test_a_folder_that_does_not_say_what_judges_it_has_chosen_nothing(tmp_path: Path, name: str) -> None:
    file = begun(tmp_path)
    stored = json.loads(file.read_text())
    del stored["resolved"][name]
    file.write_text(json.dumps(stored))
    assert known_choices(tmp_path) is None


@pytest.mark.parametrize("left", ["data", "learning_rates", "seeds", "tolerance"])
def test_a_spec_that_lacks_a_field_is_another(tmp_path: Path, left: str) -> None:
    file = begun(tmp_path)
    stored = json.loads(file.read_text())
    del stored["spec"][left]
    file.write_text(json.dumps(stored))
    grown = spec(seeds=3, data={"train": "rows.jsonl", "max_eval": 20})
    if left == "tolerance":  # which may change
        extend_spec(tmp_path, grown, RESOLVED, "x", lambda count: "b")
        return
    with pytest.raises(RecordsError, match="belongs to another spec"):
        extend_spec(tmp_path, grown, RESOLVED, "x", lambda count: "b")
