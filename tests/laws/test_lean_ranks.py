"""Two ranks train with moments of 8 bits what one process does; what they cannot is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lean_ranks
from gloo import together


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("alone")
    return lean_ranks.train(folder, halves=True), folder / "state.safetensors"


@pytest.fixture(scope="module")
def two(alone: tuple[dict[str, Any], Path], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("two")
    return together(2, "lean_ranks", lean_ranks.everything, folder, folder, alone[1])


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(value, other[name]) for name, value in one.items())


def test_two_ranks_train_as_one_process_to_the_bit(alone: tuple[dict[str, Any], Path], two: list[Any]) -> None:
    expected, _ = alone
    assert {value.dtype for value in expected.values()} == {np.dtype("uint8"), np.dtype("float32")}
    assert all(same(found, expected) for found, _, _ in two)


def test_two_ranks_go_on_with_what_one_has_saved(
    alone: tuple[dict[str, Any], Path], two: list[Any], tmp_path: Path
) -> None:
    expected = lean_ranks.train(tmp_path, True, alone[1])
    assert not same(expected, alone[0])
    assert all(same(found, expected) for _, found, _ in two)


def test_what_several_ranks_do_not_train_is_refused(two: list[Any]) -> None:
    for _, _, said in two:
        assert len(said) == len(lean_ranks.REFUSED) + 1
        assert all("Use" in sentence for sentence in said)
        for method, sentence in zip(lean_ranks.REFUSED, said, strict=False):
            assert sentence.startswith(method.name)
        assert "rows of 96" in said[-1]
