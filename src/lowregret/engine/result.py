"""The answer to a pass."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PassResult:
    """What one policy got out of a pass."""

    loss: Tensor
    """A scalar on the engine's device: reading it waits for the pass."""
    logprobs: Tensor
    """log p(target) of each supervised position, row by row, nats: [supervised positions · targets of each]."""
    supervised: Tensor
    """Which positions those are: bool [rows, length], on the CPU like the batch."""

    def detached(self) -> PassResult:
        """The same, from which no gradient flows."""
        return PassResult(self.loss.detach(), self.logprobs.detach(), self.supervised)
