"""Specs: defaults, bounds, and errors that name the file, the field and the nearest choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lowregret.errors import SpecError, did_you_mean
from lowregret.spec import CompareSpec, TrainSpec, build, read_toml


def compare_spec(**fields: Any) -> CompareSpec:
    return build(CompareSpec, {"model": "tiny", "data": {"train": "rows.jsonl"}, **fields})


@pytest.mark.parametrize("given_as", ["0.5%", " 0.5 %", "0.005", 0.005])
def test_a_tolerance_is_a_percentage_or_a_fraction(given_as: object) -> None:
    assert compare_spec(tolerance=given_as).tolerance == pytest.approx(0.005)


@given(st.floats(1e-6, 99.0))
def test_percentages_and_fractions_agree(percent: float) -> None:
    assert compare_spec(tolerance=f"{percent!r}%").tolerance == pytest.approx(percent / 100)


@pytest.mark.parametrize("wrong", ["", "%", "half", "1,5%", "0%", "-1%", "100%", "nan"])
def test_a_wrong_tolerance_names_its_field(wrong: str) -> None:
    with pytest.raises(SpecError, match="tolerance"):
        compare_spec(tolerance=wrong)


def test_one_epoch_when_no_length_is_given_and_never_both() -> None:
    assert compare_spec().epochs == 1
    assert compare_spec(steps=5).epochs is None
    with pytest.raises(SpecError, match="epochs or steps, not both"):
        compare_spec(steps=5, epochs=1)


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (["lora:4"], "nothing to compare"),
        (["full"], "nothing to compare"),
        ([], "nothing to compare"),
        (["full", "lora:4", "lora:4"], "names a method twice"),
        (["full", "lora:4", "lora:4:alpha=32"], "names a method twice"),
        ("lora:4,full", "methods: should be a list"),
    ],
)
def test_a_comparison_needs_both_sides_once(methods: object, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        compare_spec(methods=methods)


@pytest.mark.parametrize("rates", [[1e-3, 1e-3], [0.0], [-1e-3], [float("nan")], [float("inf")], ["x"]])
def test_listed_rates_are_positive_finite_and_distinct(rates: list[Any]) -> None:
    with pytest.raises(SpecError, match="learning_rates"):
        compare_spec(learning_rates=rates)


def test_an_unknown_key_names_file_field_and_nearest_choice(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text('model = "tiny"\nlearning_rat = 1e-3\n[data]\ntrain = "rows.jsonl"\nmax_lenght = 9\n')
    with pytest.raises(SpecError) as caught:
        build(TrainSpec, read_toml(file), source=str(file))
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{file}: unknown key ") for line in lines)
    assert any("'learning_rat'. Did you mean 'learning_rate'?" in line for line in lines)
    assert any("'data.max_lenght'. Did you mean 'max_length'?" in line for line in lines)


def test_alternatives_of_one_field_make_one_line() -> None:
    with pytest.raises(SpecError) as caught:
        build(TrainSpec, {"model": "tiny", "data": {"train": "rows.jsonl"}, "learning_rate": "fast"})
    assert str(caught.value).count("\n") == 0
    assert str(caught.value).startswith("learning_rate: ")
    assert "'auto'" in str(caught.value)
    assert "'fast'" in str(caught.value)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(SpecError, match=r"'data\.train' is missing"):
        build(TrainSpec, {"model": "tiny", "data": {}})


def test_broken_toml_names_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text('model = "tiny"\nsteps = = 3\n')
    with pytest.raises(SpecError, match=r"study\.toml: not valid TOML: .*line 2"):
        read_toml(file)
    with pytest.raises(SpecError, match=r"nowhere\.toml: cannot be read"):
        read_toml(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("wrong", [0, -1.5, "much"])
def test_a_memory_budget_is_a_number_above_zero(wrong: object) -> None:
    with pytest.raises(SpecError, match="memory_gb"):
        compare_spec(memory_gb=wrong)


def test_what_only_moves_memory_and_time_may_change_in_the_middle_of_a_run() -> None:
    chosen = compare_spec(memory_gb=1.5, checkpoint_activations=True, micro_batch_size=2)
    assert chosen.model_dump(exclude=set(chosen.FREE)) == compare_spec().model_dump(exclude=set(chosen.FREE))
    assert set(chosen.FREE) <= set(CompareSpec.model_fields)


def test_specs_are_frozen() -> None:
    with pytest.raises(ValidationError):
        compare_spec().seeds = 4  # type: ignore[misc]


@given(st.lists(st.text("abcdef", min_size=1, max_size=6), min_size=1, max_size=5, unique=True), st.data())
def test_did_you_mean_lists_every_choice_and_guesses_the_right_one(choices: list[str], data: st.DataObject) -> None:
    meant = data.draw(st.sampled_from(choices))
    sentence = did_you_mean(meant, choices)
    assert f"Did you mean {meant!r}?" in sentence
    assert all(choice in sentence for choice in choices)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"stop": ["."]}, ""),
        ({"stop": ["", "."]}, "an empty text ends every completion"),
        ({"stop": ["\udcff"]}, "stop: is no UTF-8"),  # as Python has the byte 0xff of a command line
        ({"clip": 0.2}, "ppo_clip and cispo only"),
        ({"clip": 1.0, "estimator": "ppo_clip"}, "below 1"),
    ],
)
def test_what_ends_a_completion_and_how_far_a_ratio_may_go(fields: dict[str, Any], words: str) -> None:
    objective = {"kind": "rl", "task": "math", **fields}
    if not words:
        assert compare_spec(objective=objective).objective.kind == "rl"
        return
    with pytest.raises(SpecError, match=words):
        compare_spec(objective=objective)
