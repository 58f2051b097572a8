"""Masks by the place of each number: what they depend on, what not, and that they look drawn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lowregret.lora.dropout import Dropout
from lowregret.lora.masks import counted

HERE = torch.device("cpu")
ROWS = ((0, 300), (1, 200), (7, 100))


def kept(drop: Dropout, matrix: str = "m", width: int = 64) -> Tensor:
    tokens = sum(count for _, count in drop.rows)
    masks = counted([drop], [tokens], HERE)
    assert masks is not None
    return masks(torch.ones(tokens, width), matrix) > 0


@pytest.mark.parametrize("probability", [0.01, 0.1, 0.5, 0.9])
def test_it_keeps_the_mean(probability: float) -> None:
    masks = counted([Dropout(probability, 3, 7, ROWS)], [600], HERE)
    assert masks is not None
    x = torch.ones(600, 512)
    y = masks(x, "m")
    share = float((y == 0).float().mean())
    assert share == pytest.approx(probability, abs=4 * (probability * (1 - probability) / x.numel()) ** 0.5)
    torch.testing.assert_close(y[y > 0], torch.full_like(y[y > 0], 1 / (1 - probability)), rtol=2e-4, atol=0)


def test_it_goes_by_seed_step_row_and_matrix_and_by_nothing_else() -> None:
    drop = Dropout(0.25, 3, 7, ROWS)
    whole = kept(drop)
    assert torch.equal(whole, kept(drop))
    for other in (kept(drop, "n"), kept(Dropout(0.25, 3, 8, ROWS)), kept(Dropout(0.25, 4, 7, ROWS))):
        assert 0.55 < float((whole == other).float().mean()) < 0.7  # 0.25² + 0.75²
    assert torch.equal(kept(Dropout(0.25, 3, 7, ((1, 200),))), whole[300:500])
    assert torch.equal(kept(Dropout(0.25, 3, 7, ((1, 150), (0, 20)))), torch.cat([whole[300:450], whole[:20]]))


def test_neighbours_have_their_own_and_those_without_are_not_touched() -> None:
    first, last = Dropout(0.25, 3, 7, ROWS), Dropout(0.5, 5, 1, ((2, 40),))
    masks = counted([first, None, last], [600, 10, 40], HERE)
    assert masks is not None
    x = torch.randn(650, 64)
    y = masks(x, "m")
    assert torch.equal(y[600:610], x[600:610])
    assert torch.equal(y[:600] != 0, kept(first))
    assert torch.equal(y[610:] != 0, kept(last))
    assert counted([None, None], [3, 4], HERE) is None


@pytest.mark.parametrize("first", [0, 3, 16, 30])
def test_a_part_of_the_inputs_has_its_part_of_the_mask(first: int) -> None:
    whole = kept(Dropout(0.25, 3, 7, ROWS))
    part = kept(Dropout(0.25, 3, 7, ROWS, {"m": (64, first)}), width=21)
    assert torch.equal(part, whole[:, first : first + 21])


def test_rows_columns_and_matrices_are_not_alike() -> None:
    """No two are more correlated than chance has it: of so many pairs the largest is about 5 deviations."""
    drop = Dropout(0.5, 1, 0, tuple((row, 64) for row in range(8)))
    one, other = ((kept(drop, matrix, 512).float() - 0.5) * 2 for matrix in ("a.b", "a.c"))
    for left, right in ((one.T, one), (one, one.T), (one.T, other)):
        found = left @ right / left.shape[1] ** 0.5
        if right is not other:
            found.fill_diagonal_(0)
        assert float(found.abs().max()) < 6
        assert float(found.std()) == pytest.approx(1, abs=0.02)


def test_the_same_bits_for_ever() -> None:
    """A run that goes on after an upgrade has the masks that it would have had."""
    mask = kept(Dropout(0.5, 1, 2, ((3, 2),)), "model.layers.0.self_attn.q_proj", 16)
    assert ["".join(str(int(on)) for on in row) for row in mask.tolist()] == EXPECTED


EXPECTED = ["1011100001101111", "1000110101101111"]
