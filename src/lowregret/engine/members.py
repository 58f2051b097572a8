"""Which policies are in a pass: in which order, and with which of its tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from lowregret.engine.policy import LoRAPolicy, Policy
from lowregret.lora.bank import AdapterBank
from lowregret.lora.spans import SlotRows, SlotSpan, slot_spans


def ordered(names: Iterable[str], policies: Mapping[str, Policy], banks: Sequence[AdapterBank]) -> list[str]:
    """Neighbours in a bank next to each other; the base's own rows last."""

    def place(name: str) -> tuple[int, int]:
        policy = policies.get(name)
        return (banks.index(policy.bank), policy.slot) if isinstance(policy, LoRAPolicy) else (len(banks), 0)

    return sorted(names, key=place)


def spans_of(
    policies: Mapping[str, Policy],
    names: Sequence[str],
    counts: Sequence[int],
    rows: Sequence[Sequence[tuple[int, int]]] | None = None,
) -> list[SlotSpan]:
    """Runs of neighbours in a bank, with their tokens; `rows`, (number, tokens) each, is what dropout goes by."""
    members: list[SlotRows] = []
    start = 0
    for name, count, own in zip(names, counts, rows or [()] * len(names), strict=True):
        policy = policies.get(name)
        if isinstance(policy, LoRAPolicy) and count:
            dropout = policy.dropout(own) if torch.is_grad_enabled() else None
            scales = (policy.scale, policy.expert_scale)
            members.append(SlotRows(policy.bank, policy.slot, start, count, *scales, dropout))
        start += count
    return slot_spans(members, start)
