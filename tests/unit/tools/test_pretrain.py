"""The recipes of the bundled bases say what their command reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.pretrain import PretrainSpec

from lowregret.spec import build, read_toml

RECIPES = sorted((Path(__file__).parents[3] / "tools" / "recipes").glob("pretrain_*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid(path: Path) -> None:
    spec = build(PretrainSpec, read_toml(path), source=path.name)
    assert spec.name == path.stem.removeprefix("pretrain_").replace("_", "-")
    assert set(spec.corpus.mix) <= {"biography", "question", "arithmetic", "instruction"}
