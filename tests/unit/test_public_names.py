"""`lowregret.NAME` is what it says, whatever of the package was imported before."""

from __future__ import annotations

import pkgutil

import pytest

import lowregret
from lowregret import version


@pytest.mark.parametrize("name", lowregret.__all__)
def test_a_public_name_is_no_modules_name(name: str) -> None:
    """Importing a module binds its name in the package, over a function of that name."""
    modules = {module.name for module in pkgutil.iter_modules(lowregret.__path__)}
    assert name not in modules
    assert callable(getattr(lowregret, name))


def test_the_version_is_that_of_the_leaf() -> None:
    assert vars(lowregret)["__version__"] == version.__version__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'plan_it'"):
        lowregret.plan_it  # noqa: B018
