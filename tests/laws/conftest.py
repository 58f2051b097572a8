"""The bundled base and real examples for the laws that need them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lowregret.data.example import Example
    from lowregret.engine import Engine


@pytest.fixture
def float64() -> Iterator[None]:
    """Adam divides by the size of a gradient, so in float32 it would turn the rounding of near-zero ones into steps."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


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
