"""Flags and a TOML file → one spec: flags win, tables merge, and what is wrong is named as the user wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.cli.config import config_text
from lowregret.cli.specs import filled_in, make_spec
from lowregret.errors import SpecError
from lowregret.spec import CompareSpec, FullFT, LoRA, TrainSpec

GIVEN: dict[str, Any] = {"model": "tiny", "data": "rows.jsonl"}
TOML = """
model = "tiny"
methods = ["lora:4", "lora:8:mlp", "full"]
batch_size = 4
epochs = 2
tolerance = "1%"

[data]
train = "rows.jsonl"
max_train = 100
max_length = 64

[optimizer]
clip_norm = 1.0
warmup_steps = 3
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "study.toml"
    file.write_text(TOML)
    return file


def test_a_file_alone_is_a_spec(config: Path) -> None:
    spec = make_spec(CompareSpec, config, {"model": None, "seeds": None})
    assert (spec.batch_size, spec.epochs, spec.tolerance) == (4, 2, 0.01)
    assert (spec.data.max_train, spec.optimizer.clip_norm) == (100, 1.0)


def test_flags_win_over_the_file_and_leave_the_rest(config: Path) -> None:
    flags = {"batch_size": 16, "max_train": 7, "clip_norm": 0.5, "tolerance": "2%", "methods": ["lora:2", "full"]}
    spec = make_spec(CompareSpec, config, flags)
    assert (spec.batch_size, spec.data.max_train, spec.optimizer.clip_norm, spec.tolerance) == (16, 7, 0.5, 0.02)
    assert spec.methods == (LoRA(rank=2), FullFT())
    assert (spec.data.max_length, spec.optimizer.warmup_steps, spec.epochs) == (64, 3, 2)


def test_a_flag_for_the_length_replaces_the_files_choice_of_the_other(config: Path) -> None:
    spec = make_spec(CompareSpec, config, {"steps": 9})
    assert (spec.steps, spec.epochs) == (9, None)
    with pytest.raises(SpecError, match="not both"):
        make_spec(CompareSpec, config, {"steps": 9, "epochs": 1.0})


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "batch_size": st.integers(1, 64),
            "max_train": st.integers(1, 999),
            "max_length": st.integers(2, 999),
            "warmup_steps": st.integers(0, 9),
            "seeds": st.integers(1, 9),
        },
    )
)
def test_flags_alone_file_alone_and_both_agree(tmp_path_factory: pytest.TempPathFactory, flags: dict[str, int]) -> None:
    file = tmp_path_factory.getbasetemp() / "same.toml"
    tables: dict[str, list[str]] = {"": [], "[data]": ['train = "rows.jsonl"'], "[optimizer]": []}
    for name, value in flags.items():
        table = {"max_train": "[data]", "max_length": "[data]", "warmup_steps": "[optimizer]"}.get(name, "")
        tables[table].append(f"{name} = {value}")
    file.write_text('model = "tiny"\n' + "\n".join("\n".join([head, *lines]) for head, lines in tables.items()))
    by_flags = make_spec(CompareSpec, None, {**GIVEN, **flags})
    assert make_spec(CompareSpec, file, {}) == by_flags
    assert make_spec(CompareSpec, file, {**GIVEN, **flags}) == by_flags


def test_targets_and_alpha_reach_every_lora_that_does_not_say_otherwise(config: Path) -> None:
    spec = make_spec(CompareSpec, config, {"targets": "attention", "alpha": 8.0})
    attention = ("attention",)
    assert spec.methods == (LoRA(rank=4, alpha=8, targets=attention), LoRA(rank=8, alpha=8, targets=("mlp",)), FullFT())
    by_name = make_spec(CompareSpec, None, {**GIVEN, "methods": ["lora:4:alpha=16", "lora:2", "full"], "alpha": 8.0})
    assert by_name.methods[:2] == (LoRA(rank=4, alpha=16), LoRA(rank=2, alpha=8))


def test_targets_and_alpha_reach_the_default_methods_too() -> None:
    compared = make_spec(CompareSpec, None, {**GIVEN, "alpha": 8.0})
    assert compared.methods == (LoRA(rank=16, alpha=8), FullFT())
    trained = make_spec(TrainSpec, None, {**GIVEN, "alpha": 8.0, "dropout": 0.1, "targets": "mlp"})
    assert trained.method == LoRA(rank=16, alpha=8, dropout=0.1, targets=("mlp",))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({}, "missing --model and --data"),
        ({"model": "tiny"}, "missing --data"),
        ({"data": "rows.jsonl"}, "missing --model"),
        ({**GIVEN, "targets": "atention"}, "Did you mean 'attention'?"),
        ({**GIVEN, "methods": ["lroa:4", "full"], "alpha": 8.0}, "unknown method 'lroa:4'"),
        ({**GIVEN, "overlong": "cutt"}, "data.overlong"),
        ({**GIVEN, "methods": ["lora:4:mlp", "full"], "targets": "attention"}, "--targets is of no use here"),
        ({**GIVEN, "methods": ["lora:4:alpha=8", "full"], "alpha": 16.0}, "--alpha is of no use here"),
        ({**GIVEN, "methods": ["lora:4:dropout=0.2", "full"], "dropout": 0.1}, "--dropout is of no use here"),
        ({**GIVEN, "memory_gb": 0.0}, "memory_gb"),
        ({**GIVEN, "eval_data": "e.jsonl", "eval_fraction": 0.2}, "eval_fraction is of no use"),
        ({**GIVEN, "clip_norm": -1.0}, "optimizer.clip_norm"),
    ],
)
def test_wrong_flags_are_named(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        make_spec(CompareSpec, None, flags)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("data = 4", "data is 4, and must be a table"),
        ('data = "rows.jsonl"\noptimizer = 3', "optimizer is 3, and must be a table"),
        ('data = "rows.jsonl"\nmethods = "lora:4,full"', "methods: should be a list"),
        ('data = "rows.jsonl"\nprunee = 0.1', "unknown key 'prunee'. Did you mean 'prune'?"),
        ("[data]\nmax_train = 3", "missing --data"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, toml: str, words: str) -> None:
    file = tmp_path / "study.toml"
    file.write_text('model = "tiny"\n' + toml)
    with pytest.raises(SpecError) as caught:
        make_spec(CompareSpec, file, {"alpha": 8.0, "clip_norm": 1.0, "max_length": 9})
    assert str(file) in str(caught.value)
    assert words in str(caught.value)


def test_a_source_of_data_may_stand_alone_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text('model = "tiny"\ndata = "rows.jsonl"\n')
    assert make_spec(CompareSpec, file, {"max_train": 3}).data.train == "rows.jsonl"


def test_every_default_that_was_filled_in_is_said_and_nothing_else() -> None:
    spec = make_spec(CompareSpec, None, {**GIVEN, "batch_size": 4, "max_length": 99, "clip_norm": 0.5})
    line = filled_in(spec)
    assert len(line) < 140, "one short line"
    for said in ("methods lora:16,full", "epochs 1.0", "seeds 3"):
        assert said in line
    for chosen in ("batch_size", "data.max_length", "optimizer.clip_norm", "model", "data.train"):
        assert f"{chosen} " not in line
    more = int(line.partition("; ")[2].partition(" more: --show-config")[0])
    told = line.removeprefix("filled in: ").partition("; ")[0].split(", ")
    whole = config_text(spec)
    defaults = [key for key in whole.splitlines() if key.startswith("# ") and " = " in key and "# kind" not in key]
    assert len(defaults) == len(told) + more
    for default in ("# memory_gb = none", '# overlong = "cut"', '# schedule = "constant"', "# epochs = 1.0"):
        assert default in whole.splitlines()


@pytest.mark.parametrize(
    "flags",
    [
        {
            "data": "a b.jsonl",
            "batch_size": 4,
            "max_length": 99,
            "clip_norm": 0.5,
            "methods": ["full", "lora:8:dora:mlp"],
        },
        {"data": "rows.jsonl", "learning_rates": [1e-4, 2e-4], "evals": 3, "schedule": "linear"},
        {"objective": "rl", "task": "builtin:arithmetic", "stop": ["\n\n", "Q:"], "kl": 0.1},
    ],
)
def test_the_whole_configuration_is_a_file_of_the_same_run(flags: dict[str, Any], tmp_path: Path) -> None:
    spec = make_spec(CompareSpec, None, {"model": "tiny", **flags})
    file = tmp_path / "again.toml"
    file.write_text(config_text(spec))
    assert make_spec(CompareSpec, file, {}) == spec
