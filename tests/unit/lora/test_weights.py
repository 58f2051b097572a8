"""A merge of one matrix: float32's sum, rounded once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lowregret.lora.weights import LoRAWeights, change


@pytest.mark.parametrize("dora", [False, True])
def test_a_weight_in_half_precision_is_rounded_once(dora: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 48).bfloat16()
    a, b = torch.randn(4, 48), 0.003 * torch.randn(64, 4)
    magnitude = nn.Parameter(weight.float().norm(dim=1) * 1.01) if dora else None
    exact = weight.double() + 2.0 * b.double() @ a.double()
    if dora:
        exact *= (weight.float().norm(dim=1) * 1.01).double()[:, None] / exact.norm(dim=1, keepdim=True)
    merged = LoRAWeights(nn.Parameter(a), nn.Parameter(b), 2.0, None, magnitude).merged(weight)
    assert merged.dtype is torch.bfloat16
    assert float((merged != exact.bfloat16()).float().mean()) < 1e-3, "all but ties that float32 tells apart otherwise"
    twice = weight + (2.0 * b @ a).bfloat16()
    assert dora or float((twice != exact.bfloat16()).float().mean()) > 1e-2, "rounding twice would be seen"


def test_some_rows_change_as_in_the_whole() -> None:
    torch.manual_seed(0)
    weight, a, b, magnitude = torch.randn(6, 5), torch.randn(2, 5), torch.randn(6, 2), torch.rand(6)
    for own in (None, magnitude):
        whole = change(weight, a, b, 0.5, own)
        rows = slice(2, 5)
        part = change(weight[rows], a, b[rows], 0.5, None if own is None else own[rows])
        torch.testing.assert_close(part, whole[rows])
