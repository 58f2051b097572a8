"""What a training step sees of a row: tokens, and which of them count."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """Token ids, and which of them the loss counts."""

    token_ids: tuple[int, ...]
    supervised: tuple[bool, ...]
    """As long as `token_ids`; [i] is whether token i is predicted under the loss. [0] is False: nothing precedes it."""

    @property
    def supervised_tokens(self) -> int:
        """How many tokens the loss counts."""
        return sum(self.supervised)
