"""The bundled base and real examples for the laws that need them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lowregret.data.chat import Example
    from lowregret.engine import Engine


@pytest.fixture
def tiny() -> Engine:
    """A fresh engine on the bundled base."""
    from lowregret.engine import Engine
    from lowregret.models.load import load_base, resolve

    return Engine(load_base(resolve("tiny")))


@pytest.fixture(scope="session")
def arithmetic() -> list[Example]:
    """Worked arithmetic as the bundled base's tokens."""
    from lowregret.data.prepare import prepare
    from lowregret.models.load import load_tokenizer, resolve
    from lowregret.spec import DataSpec

    data = prepare(DataSpec(train="builtin:arithmetic:size=64,test_size=16"), load_tokenizer(resolve("tiny")))
    return list(data.train)
