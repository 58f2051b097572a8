"""One definition of a field gives key, flag, type, default, bounds, unit and sentence."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field

from lowregret.questions.question import Question
from lowregret.spec import CompareSpec, Spec, TrainSpec
from lowregret.spec.keys import Key, keys
from lowregret.spec.marks import Flag, Unit


class Plain(Spec):
    """One optimizer."""

    kind: Literal["plain"] = "plain"
    rate: Annotated[float, Unit("a step")] = Field(default=0.5, gt=0, le=1)
    """How fast. More is said about it here."""
    shared: int = 3
    """Of both."""


class Heavy(Spec):
    """Another."""

    kind: Literal["heavy"] = "heavy"
    mass: int | None = Field(default=None, ge=1)
    """How heavy; none when not given."""
    shared: int = 4
    """Of both."""


class WithOne(Spec):
    """A table that leaves no choice."""

    optimizer: Plain = Plain()


class WithTwo(Spec):
    """A table of one of two kinds."""

    optimizer: Annotated[Plain | Heavy, Field(discriminator="kind")] = Plain()
    name: Annotated[str, Flag(name="other_name")]
    """Called so."""


def by_path(spec: type[Spec]) -> dict[str, Key]:
    return {key.path: key for key in keys(spec)}


def test_a_table_that_leaves_no_choice_has_no_flag_for_its_kind() -> None:
    assert set(by_path(WithOne)) == {"optimizer.rate", "optimizer.shared"}


def test_the_kind_of_a_table_is_a_flag_where_there_is_a_choice() -> None:
    found = by_path(WithTwo)
    assert set(found) == {"optimizer.kind", "optimizer.rate", "optimizer.mass", "optimizer.shared", "name"}
    kind = found["optimizer.kind"]
    assert (kind.flag, kind.reads, kind.choices, kind.default) == ("optimizer", "choice", ("plain", "heavy"), "plain")
    assert found["optimizer.mass"].only_with == "heavy"
    assert found["name"].option == "--other-name"
    assert found["name"].default is None


def test_what_is_said_about_a_field() -> None:
    rate = by_path(WithOne)["optimizer.rate"]
    assert (rate.sentence, rate.unit, rate.default) == ("How fast.", "a step", "0.5")
    assert (rate.bounds, rate.type, rate.reads) == ("above 0, at most 1", "number", "float")
    assert rate.panel == "Optimizer"


@pytest.mark.parametrize(
    ("path", "reads"),
    [
        ("data.train", "text"),
        ("data.max_train", "int"),
        ("data.overlong", "choice"),
        ("data.skip_bad_rows", "switch"),
        ("objective.stop", "texts"),
        ("objective.kl", "float"),
        ("evals", "text"),
        ("tolerance", "text"),
        ("methods", "text"),
        ("methods.alpha", "float"),
        ("methods.targets", "text"),
    ],
)
def test_what_is_written_behind_a_flag(path: str, reads: str) -> None:
    assert by_path(CompareSpec)[path].reads == reads


def test_bounds_within_unions_are_found() -> None:
    assert by_path(TrainSpec)["learning_rate"].bounds == "above 0, below 1000"
    assert by_path(CompareSpec)["prune"].bounds == "above 0, at most 1,000,000,000"


def test_a_spec_that_changes_a_default_keeps_what_its_base_says() -> None:
    steps = by_path(Question)["steps"]
    assert (steps.default, steps.unit, steps.panel) == ("400", "steps", "Training")


def test_no_two_keys_share_a_flag() -> None:
    for spec in (TrainSpec, CompareSpec, Question):
        flags = [key.flag for key in keys(spec) if key.flag]
        assert len(set(flags)) == len(flags)
