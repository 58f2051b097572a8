"""docs/reference is what the verbs and specs say today, and its schemas take every recipe."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import jsonschema
import pytest

import lowregret
from lowregret.cli.verbs import VERBS, Verb
from lowregret.spec import LoRA, read_toml
from lowregret.spec.method import spellings
from lowregret.spec.recipes import Recipe, recipes

ROOT = Path(__file__).parents[3]
SHIPPED = list(recipes().values())


@pytest.fixture(scope="module")
def reference(load_module: Callable[[Path], ModuleType]) -> Any:
    return load_module(ROOT / "tools" / "reference.py")


@cache
def validator(verb: str) -> jsonschema.Draft202012Validator:
    """Of the files of a verb; its schema is checked the first time."""
    schema = json.loads((ROOT / "docs" / "reference" / "schema" / f"{verb}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_reference_is_not_stale(reference: Any) -> None:
    folder = ROOT / "docs" / "reference"
    kept = {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in folder.rglob("*.*")}
    made = reference.files()
    assert sorted(kept) == sorted(made)
    stale = [name for name, text in made.items() if kept[name] != text]
    assert stale == [], "renew it: python tools/reference.py"


@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.name)
def test_every_option_of_a_verb_has_its_row(verb: Verb) -> None:
    folder = ROOT / "docs" / "reference"
    assert f"[{verb.name}]({verb.name}.md)" in (folder / "index.md").read_text(encoding="utf-8")
    rows = [line for line in (folder / f"{verb.name}.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    command = getattr(importlib.import_module(verb.module), verb.import_path.partition(":")[2])
    for parameter in inspect.signature(command).parameters.values():
        for name in get_args(parameter.annotation)[-1].name or (f"--{parameter.name.replace('_', '-')}",):
            assert [row for row in rows if f"`{name}`" in "".join(row.split(" | ")[:2])], name


def test_every_public_name_has_its_section() -> None:
    page = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")
    assert [name for name in lowregret.__all__ if f"\n## {name}\n" not in page] == []


def test_the_schema_of_a_verdict_takes_those_that_were_kept() -> None:
    schema = json.loads((ROOT / "docs/reference/schema/records/verdict.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    kept = sorted((ROOT / "docs/results").glob("*/verdict.json"))
    assert kept
    for path in kept:
        verdict = json.loads(path.read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator(schema).validate(verdict)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(schema).validate({**verdict, "verdict": "perhaps"})


@pytest.mark.parametrize("recipe", SHIPPED, ids=lambda recipe: recipe.name)
def test_the_schema_takes_every_recipe(recipe: Recipe) -> None:
    validator(recipe.verb).validate(read_toml(recipe.path))


def test_the_schema_refuses_what_the_spec_refuses() -> None:
    good = {"model": "tiny", "data": "rows.jsonl", "method": "lora:4", "objective": "sft"}
    validator("train").validate(good)
    for wrong in (
        {"batch_size": 0},
        {"batchsize": 3},
        {"data": {"train": "x", "max_length": 1}},
        {"precision": "int4"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            validator("train").validate({**good, **wrong})


def test_every_field_of_a_lora_can_be_spelled() -> None:
    assert set(spellings()) == set(LoRA.model_fields) - {"kind"}
