"""The products of a step of decoding, on processors with a faster way round and on those without."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lowregret.lora import decoding


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Rows of which the transposed product was taken, by an AMD processor with two threads."""
    found: list[Tensor] = []
    own = decoding.transposed_product

    def seen(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        found.append(x)
        return own(x, weight, bias)

    monkeypatch.setattr(decoding, "transposed_product", seen)
    monkeypatch.setattr(decoding, "cpu_vendor", lambda: "AuthenticAMD")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    return found


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 32])
def test_it_is_the_bases_product(taken: list[Tensor], rows: int, bias: bool) -> None:
    linear = nn.Linear(7, 5, bias=bias)
    x = torch.randn(rows, 1, 7)
    found = decoding.base_product(linear, x)
    assert found.shape == (rows, 1, 5)
    assert torch.allclose(found, linear(x), atol=1e-6)
    assert len(taken) == 1


@torch.no_grad()
@pytest.mark.parametrize("shape", [(33, 1, 7), (1, 4, 7), (4, 7)])
def test_other_passes_are_the_bases_own(taken: list[Tensor], shape: tuple[int, ...]) -> None:
    """Many rows, and prompts that are read: to the bit."""
    linear, x = nn.Linear(7, 5), torch.randn(shape)
    assert torch.equal(decoding.base_product(linear, x), linear(x))
    assert not taken


@torch.no_grad()
def test_hooks_see_what_they_are_there_for(taken: list[Tensor]) -> None:
    linear, x = nn.Linear(7, 5), torch.randn(2, 1, 7)
    linear.register_forward_hook(lambda module, inputs, output: output + 1)
    assert torch.equal(decoding.base_product(linear, x), linear(x))
    assert not taken


def test_what_trains_is_the_bases_own(taken: list[Tensor]) -> None:
    linear = nn.Linear(7, 5)
    decoding.base_product(linear, torch.randn(2, 1, 7)).sum().backward()
    assert linear.weight.grad is not None
    assert not taken


@torch.no_grad()
@pytest.mark.parametrize(("vendor", "threads", "most"), [
    ("AuthenticAMD", 1, 4), ("AuthenticAMD", 2, 32), ("GenuineIntel", 1, 0), ("GenuineIntel", 2, 0), ("", 2, 0),
])  # fmt: skip
def test_rows_by_who_made_the_processor(
    taken: list[Tensor], monkeypatch: pytest.MonkeyPatch, vendor: str, threads: int, most: int
) -> None:
    monkeypatch.setattr(decoding, "cpu_vendor", lambda: vendor)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    linear = nn.Linear(7, 5)
    for rows in (1, 4, 5, 32, 33):
        decoding.base_product(linear, torch.randn(rows, 1, 7))
    assert [len(x) for x in taken] == [rows for rows in (1, 4, 5, 32, 33) if rows <= most]
