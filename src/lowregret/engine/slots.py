"""The policies of an engine, and where each one's rows lie: neighbours in a bank next to each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from transformers import PreTrainedModel

from lowregret.engine.forward.checkpointing import first_layer
from lowregret.engine.forward.layout import PassLayout
from lowregret.engine.policy import LoRAPolicy, Policy
from lowregret.lora.bank import AdapterBank, AdapterLayout
from lowregret.lora.kernels import Kernels
from lowregret.lora.spans import SlotRows, SlotSpan, slot_spans


class PolicySlots:
    """Policies by name, and the banks of those that are LoRAs."""

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels
        """How their passes are computed."""
        self.policies: dict[str, Policy] = {}
        self.ahead = False
        """Whether new banks take memory for all that they may hold: policies come one by one while others wait."""
        self._banks: list[AdapterBank] = []

    def bank(self, layout: AdapterLayout) -> AdapterBank:
        """The bank for a new policy of this layout: one that has room, or a new one."""
        for bank in self._banks:
            if bank.layout == layout and bank.has_room(self.kernels.bank_bytes):
                return bank
        self._banks.append(AdapterBank(layout, self.kernels.bank_bytes if self.ahead else None))
        return self._banks[-1]

    def refresh(self, changed: Policy) -> None:
        """After a policy has come or gone: views of its bank are others now, and one without a member is left."""
        self._banks = [bank for bank in self._banks if bank.members]
        for policy in self.policies.values():
            if isinstance(policy, LoRAPolicy) and isinstance(changed, LoRAPolicy) and policy.bank is changed.bank:
                policy.refresh_views()

    def order(self, names: Iterable[str]) -> list[str]:
        """Neighbours in a bank next to each other; the base's own rows last."""

        def place(name: str) -> tuple[int, int]:
            policy = self.policies.get(name)
            if isinstance(policy, LoRAPolicy):
                return self._banks.index(policy.bank), policy.slot
            return len(self._banks), 0

        return sorted(names, key=place)

    def spans(
        self, names: Sequence[str], counts: Sequence[int], rows: Sequence[Sequence[tuple[int, int]]] | None = None
    ) -> list[SlotSpan]:
        """Runs of neighbours in a bank, with their tokens; `rows`, (number, tokens) each, is what dropout goes by."""
        members: list[SlotRows] = []
        start = 0
        for name, count, own in zip(names, counts, rows or [()] * len(names), strict=True):
            policy = self.policies.get(name)
            if isinstance(policy, LoRAPolicy) and count:
                dropout = policy.dropout(own) if torch.is_grad_enabled() else None
                scales = (policy.scale, policy.expert_scale)
                members.append(SlotRows(policy.bank, policy.slot, start, count, *scales, dropout))
            start += count
        return slot_spans(members, start, self.kernels)

    def position_spans(self, layout: PassLayout) -> list[SlotSpan]:
        """The same of the supervised positions of a pass."""
        return self.spans(layout.names, layout.positions, layout.position_rows)

    def separable(self, names: Iterable[str], model: PreTrainedModel, *, in_step: bool) -> bool:
        """Whether no policy needs another's rows, so that each may be computed on a rank of its own: LoRAs do not.

        `in_step`: backward passes of the ranks must reach the same layers, for they gather the base together.
        """
        found = [policy for name in names if (policy := self.policies.get(name)) is not None]
        loras = [policy for policy in found if isinstance(policy, LoRAPolicy)]
        if len(loras) < len(found):
            return False
        return not in_step or len({first_layer(model, policy.matrices) for policy in loras}) <= 1
