"""Which way a device computes, and what goes there."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lowregret.lora.bank import AdapterBank, AdapterLayout
from lowregret.lora.kernels import CPU, LEAST_CHUNK, Kernels, end_to_end, kernels_for, parts_of
from lowregret.lora.spans import SlotRows, SlotSpan, slot_spans
from lowregret.models.targets import Matrix

HERE = torch.device("cpu")
GPU = Kernels(varlen=True, grouped=True, counted=True)


@pytest.mark.parametrize(
    ("major", "dtype", "varlen", "grouped"),
    [
        (7, torch.bfloat16, False, False),
        (8, torch.bfloat16, True, False),
        (9, torch.bfloat16, True, True),
        (10, torch.bfloat16, True, True),
        (12, torch.bfloat16, True, False),
        (9, torch.float32, False, False),
    ],
)
def test_the_table(
    monkeypatch: pytest.MonkeyPatch, major: int, dtype: torch.dtype, varlen: bool, grouped: bool
) -> None:
    properties = SimpleNamespace(major=major, total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.version, "hip", None)
    found = kernels_for(torch.device("cuda"), dtype)
    assert found == Kernels(varlen, grouped, counted=True, chunk_bytes=80 * 2**30 // 64)
    properties.total_memory = 4 * 2**30
    assert kernels_for(torch.device("cuda"), dtype).chunk_bytes == LEAST_CHUNK
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert not kernels_for(torch.device("cuda"), dtype).varlen


def test_an_older_torch_keeps_its_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """2.10's attention for rows end to end takes neither windows nor heads that share keys."""
    properties = SimpleNamespace(major=9, total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)

    def older(query: Tensor, key: Tensor, value: Tensor, is_causal: bool = False) -> None: ...

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", older)
    assert not kernels_for(torch.device("cuda"), torch.bfloat16).varlen
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    assert not kernels_for(torch.device("cuda"), torch.bfloat16).varlen


def test_a_cpu_keeps_its_own_and_others_have_masks_by_place() -> None:
    assert kernels_for(HERE, torch.bfloat16) == kernels_for(HERE, torch.float64) == CPU
    assert kernels_for(torch.device("meta"), torch.bfloat16) == Kernels(counted=True)


def test_tensors_that_go_together_arrive_as_they_were() -> None:
    tensors = [
        torch.arange(7),
        torch.tensor([True, False, True]),
        torch.randn(3, 5),
        torch.zeros(0, 4),
        torch.randn(2, 3).T,
        torch.tensor(2.5, dtype=torch.float64),
    ]
    together = end_to_end(tensors)
    assert together.dtype is torch.uint8
    for found, own in zip(parts_of(together, tensors), tensors, strict=True):
        assert found.dtype is own.dtype
        assert torch.equal(found, own)
        assert found.storage_offset() * found.element_size() % 16 == 0


def spans(rank: int, kernels: Kernels, sizes: tuple[int, ...] = (3, 5, 1), d_in: int = 16, total: int = 9) -> SlotSpan:
    torch.manual_seed(0)
    bank = AdapterBank(AdapterLayout((Matrix("m", "mlp", d_in=d_in, d_out=24),), rank))
    for member in range(len(sizes)):
        bank.add(str(member), {"m": (torch.randn(rank, d_in), torch.randn(24, rank))}, HERE)
    bank.need_gradients()
    starts = [sum(sizes[:slot]) for slot in range(len(sizes))]
    rows = [SlotRows(bank, slot, starts[slot], size, 0.5 + slot, 1.0, None) for slot, size in enumerate(sizes)]
    (found,) = slot_spans(rows, total, kernels)
    return found


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls, own = [], F.grouped_mm

    def counted(a: Tensor, b: Tensor, *, offs: Tensor) -> Tensor:
        calls.append(len(offs))
        return own(a, b, offs=offs)

    monkeypatch.setattr(F, "grouped_mm", counted)
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_groups_are_those_of_the_loop(groups: list[int], dtype: torch.dtype) -> None:
    x, dy = torch.randn(9, 16).to(dtype), torch.randn(9, 24).to(dtype)
    found = []
    for kernels in (CPU, GPU):
        span = spans(8, kernels)
        a, b = span.factors("m", dtype)
        u = span.scale_(span.times(x, a.transpose(1, 2)))
        y = dy.clone()
        span.add_times(y, u, b.transpose(1, 2))
        of_b = torch.zeros(3, 24, 8)
        span.add_outer(of_b, dy, u)
        found.append((u, y, of_b, span.before_base(u, b.transpose(1, 2))))
    for one, other in zip(found[0][:3], found[1][:3], strict=True):
        torch.testing.assert_close(one, other, rtol=0.02 if dtype is torch.bfloat16 else 1e-5, atol=1e-5)
    assert (found[0][3], found[1][3]) == (False, True)
    assert groups == [3, 3, 3]


def test_what_grouped_products_do_not_take_is_a_loop(groups: list[int]) -> None:
    """Rows in bfloat16 that do not begin at 16 bytes; an even pack, which is one product anyhow; more than 1,023."""
    x = torch.randn(9, 16, dtype=torch.bfloat16)
    narrow = spans(4, GPU)
    a, b = narrow.factors("m", torch.bfloat16)
    u = narrow.times(x[:, :12], a[:, :, :12].transpose(1, 2))
    narrow.add_times(torch.zeros(9, 24, dtype=torch.bfloat16), u, b.transpose(1, 2))
    even = spans(8, GPU, (3, 3, 3))
    even.times(x, even.factors("m", torch.bfloat16)[0].transpose(1, 2))
    assert groups == []
    assert not even.before_base(x, x[None])
    many = spans(4, GPU, (2, *[1] * 1023), total=1025)
    many.times(torch.randn(1025, 16), many.factors("m", torch.float32)[0].transpose(1, 2))
    assert groups == []
    most = spans(4, GPU, (2, *[1] * 1022), total=1024)
    most.times(torch.randn(1024, 16), most.factors("m", torch.float32)[0].transpose(1, 2))
    assert groups == [1023]


def test_an_update_comes_first_only_when_all_tokens_are_its_own() -> None:
    u, b = torch.randn(9, 8), torch.randn(3, 8, 24)
    assert spans(8, GPU).before_base(u, b)
    assert not spans(8, GPU, total=12).before_base(u, b)
