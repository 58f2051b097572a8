"""The recipes in the package: each says in its first line what it does, and which verb takes it."""

from __future__ import annotations

import pytest

from lowregret.errors import SpecError
from lowregret.spec.recipes import Recipe, find_recipe, recipes


@pytest.mark.parametrize("recipe", recipes().values(), ids=lambda recipe: recipe.name)
def test_a_recipe_says_what_it_does_and_who_takes_it(recipe: Recipe) -> None:
    assert len(recipe.sentence.split()) > 4
    assert not recipe.sentence.startswith("#")
    assert (recipe.verb == "study") == recipe.name.startswith("study_")


def test_all_are_there() -> None:
    assert {"demo", "ranks", "adapter", "rl_arithmetic", "study_rank"} <= set(recipes())


@pytest.mark.parametrize(
    ("name", "verb", "words"),
    [
        ("dmeo", "compare", "Did you mean 'demo'?"),
        ("demo", "train", "is for `lowregret compare`"),
        ("nothing at all", "compare", "Valid: demo"),
    ],
)
def test_a_recipe_of_another_verb_or_none_is_refused(name: str, verb: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        find_recipe(name, verb)
    assert words in str(caught.value)


def test_a_verb_finds_its_own() -> None:
    assert find_recipe("demo", "compare").path.name == "demo.toml"
