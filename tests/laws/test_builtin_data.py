"""What every built-in generator keeps: the same rows always, as many as asked, none shared, entropy stated."""

from __future__ import annotations

import importlib
import math
import pkgutil
import random
import re

import pytest

from dialogues import turns
from lowregret.data import builtin
from lowregret.data.builtin.base import Generator
from lowregret.data.builtin.registry import BUILTIN_PREFIX, GENERATORS, load_builtin, read_options
from lowregret.data.sources import read_rows
from lowregret.errors import DataError

every_generator = pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS)


def source(generator: Generator, *options: str) -> str:
    """Its small data, with these options in the place of its own of the same name."""
    return f"{BUILTIN_PREFIX}{generator.name}:{asked(generator, *options)}"


def asked(generator: Generator, *options: str) -> str:
    """The options of that."""
    named = dict(option.split("=") for option in (*filter(None, generator.small.split(",")), *options))
    return ",".join(f"{name}={value}" for name, value in named.items())


@every_generator
def test_equal_seeds_give_equal_rows_and_others_others(generator: Generator) -> None:
    first = load_builtin(source(generator))
    random.seed(123)
    assert load_builtin(source(generator)) == first
    assert load_builtin(source(generator, "seed=0")) == first
    other = load_builtin(source(generator, "seed=1"))
    assert other.train != first.train
    assert other.test != first.test


@every_generator
@pytest.mark.parametrize("size", [1, 7, 30])
@pytest.mark.parametrize("test_size", [1, 5])
def test_there_are_as_many_rows_as_asked_for(generator: Generator, size: int, test_size: int) -> None:
    text = asked(generator, f"size={size}", f"test_size={test_size}")
    data = load_builtin(f"{BUILTIN_PREFIX}{generator.name}:{text}")
    assert len(data.train) == generator.train_rows(read_options(generator, text, ""))
    assert len(data.test) == test_size


@every_generator
def test_train_and_test_share_no_problem_and_no_row_comes_twice(generator: Generator) -> None:
    data = load_builtin(source(generator))
    train, test = turns(data.train), turns(data.test)
    assert not {generator.problem(prompt) for prompt, _ in train} & {generator.problem(prompt) for prompt, _ in test}
    assert len(set(train)) == len(train)
    assert len(set(test)) == len(test)


@every_generator
def test_the_entropy_of_both_splits_is_stated(generator: Generator) -> None:
    """Both are draws of one distribution, so a reply costs about the same in both, and never less than nothing."""
    data = load_builtin(source(generator))
    for rows, key in ((data.train, "train_floor_nats"), (data.test, "test_floor_nats")):
        assert math.isfinite(data.facts[key])
        assert 0 <= data.facts[key] <= 20 * len(rows)
    means = [data.facts["train_floor_nats"] / len(data.train), data.facts["test_floor_nats"] / len(data.test)]
    assert (means[0] > 0) == (means[1] > 0)
    assert means[0] == pytest.approx(means[1], rel=0.5)


@every_generator
def test_its_rows_are_read_as_the_chats_they_are(generator: Generator) -> None:
    data = load_builtin(source(generator))
    for split, rows in (("train", data.train), ("test", data.test)):
        found, report = read_rows(source(generator), split=split)
        assert [list(row.messages or ()) for row in found] == [row["messages"] for row in rows]
        assert (report.columns, report.unused_columns, report.bad_rows) == ("messages", (), ())


@every_generator
def test_every_option_has_bounds_that_hold(generator: Generator) -> None:
    assert {"size", "test_size", "seed"} <= set(generator.options)
    for key, option in generator.options.items():
        assert option.lowest <= option.default <= option.highest
        for value in (option.lowest - 1, option.highest + 1, math.nan):
            wrong = source(generator, f"{key}={value}")
            with pytest.raises(DataError, match=f"{key} must be a ") as caught:
                load_builtin(wrong)
            assert str(caught.value).startswith(f"{wrong}: ")


@every_generator
def test_defaults_are_those_that_the_documentation_gives(generator: Generator) -> None:
    (written,) = re.findall(rf"{BUILTIN_PREFIX}{generator.name}\[:(.*?)\]", builtin.__doc__ or "")
    for part in written.split(","):
        key, _, value = part.partition("=")
        assert generator.options[key].default == float(value)


def test_every_generator_of_the_folder_is_in_the_registry() -> None:
    names = [info.name for info in pkgutil.iter_modules(builtin.__path__)]
    modules = [importlib.import_module(f"{builtin.__name__}.{name}") for name in names]
    assert {module.GENERATOR.name for module in modules if hasattr(module, "GENERATOR")} == set(GENERATORS)
