"""The laws in bfloat16 on a GPU, with the kernels that are for it. `python -m benchmarks.gpu` measures the rest."""

from __future__ import annotations

import pytest
import torch
from benchmarks.gpu.card import Card
from benchmarks.gpu.laws import LAWS, World, world_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


@pytest.fixture(scope="module")
def world() -> World:
    return world_of(Card(torch.device("cuda")), small=False)


@pytest.mark.parametrize("law", LAWS)
def test_a_law(world: World, law: str) -> None:
    measured = LAWS[law](world)
    assert measured.holds, f"{law}: {measured.apart:.3g} apart, at most {measured.most:.3g}"


def test_a_pass_waits_for_nothing(world: World) -> None:
    """The host gives the device a whole pass; an update reads all norms at once."""
    engine = world.engine("a", "b", "c", "d")
    batches = world.batches("a", "b", "c", "d")
    engine.forward_backward(batches)
    with world.card.waits() as found:
        engine.forward_backward(batches)
    assert found.count == 0, found.places
