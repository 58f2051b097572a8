"""What rows have in common at their beginning, kept by content: keys and values of tokens that were read before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

PIECE = 16
"""Tokens by which prefixes are told apart: one is found up to a multiple of so many."""

States = list[tuple[Tensor, Tensor]]
"""Keys and values [kv_heads, tokens, d] of each layer."""


@dataclass(eq=False)
class _Kept:
    keys: list[int]
    states: States
    bytes: int


@final
class Prefixes:
    """Keys and values of the newest rows, up to so many bytes.

    A prefix is known by its policy and by all its tokens. A policy's name must stand for weights that never change:
    whoever loads new weights gives them a new name.
    """

    def __init__(self, budget: int) -> None:
        self._budget, self.bytes = budget, 0
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        """By the key of the whole, the oldest first."""
        self._owner: dict[int, int] = {}
        """The whole that holds a prefix, by the prefix's key."""
        self._policies: dict[str, set[int]] = {}
        self._texts: dict[int, tuple[str, tuple[int, ...]]] = {}

    def find(self, policy: str, tokens: Sequence[int]) -> tuple[int, States]:
        """(how many of the first tokens are known, their states); at least one token is left to be read."""
        found, known = None, 0
        for length, key in _prefix_keys(policy, tokens[: len(tokens) - 1]):
            if key not in self._owner:
                break
            found, known = self._owner[key], length
        if found is None or not self._same(found, policy, tokens[:known]):
            return 0, []
        self._kept.move_to_end(found)
        return known, [(keys[:, :known], values[:, :known]) for keys, values in self._kept[found].states]

    def _same(self, whole: int, policy: str, tokens: Sequence[int]) -> bool:
        """Whether it is so, and not merely its key."""
        own, text = self._texts[whole]
        return own == policy and text[: len(tokens)] == tuple(tokens)

    def known(self, policy: str, tokens: Sequence[int]) -> bool:
        """Whether there is nothing to keep: too few tokens, or all are known, from the first on."""
        return all(key in self._owner for _, key in _prefix_keys(policy, tokens))

    def keep(self, policy: str, tokens: Sequence[int], states: States) -> None:
        """Copy the states of a row's first tokens; older rows are forgotten as needed."""
        pairs = list(_prefix_keys(policy, tokens))
        length, whole = pairs[-1]
        size = sum(part[:, :length].numel() * part.element_size() for pair in states for part in pair)
        if size > self._budget:
            return
        copied = [(keys[:, :length].clone(), values[:, :length].clone()) for keys, values in states]
        if whole in self._kept:  # its beginning was another's, which has gone
            self._forget(whole)
        self._kept[whole] = _Kept([key for _, key in pairs], copied, size)
        self._texts[whole] = policy, tuple(tokens[:length])
        self._policies.setdefault(policy, set()).add(whole)
        self.bytes += size
        for _, key in pairs:
            former = self._owner.get(key)
            self._owner[key] = whole
            if former is not None and former != whole and former in self._kept and self._idle(former):
                self._forget(former)
        while self.bytes > self._budget:
            self._forget(next(iter(self._kept)))

    def _idle(self, whole: int) -> bool:
        """Whether others hold all that this one does."""
        return all(self._owner.get(key) != whole for key in self._kept[whole].keys)

    def forget(self, policy: str) -> None:
        """Drop all of a policy."""
        for whole in list(self._policies.get(policy, ())):
            self._forget(whole)

    def _forget(self, whole: int) -> None:
        kept = self._kept.pop(whole)
        self.bytes -= kept.bytes
        policy, _ = self._texts.pop(whole)
        self._policies[policy].discard(whole)
        if not self._policies[policy]:
            del self._policies[policy]
        for key in kept.keys:
            if self._owner.get(key) == whole:
                del self._owner[key]


def _prefix_keys(policy: str, tokens: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(length, key) of each beginning that is a whole number of pieces, the shortest first."""
    key = hash(policy)
    for stop in range(PIECE, len(tokens) + 1, PIECE):
        key = hash((key, tuple(tokens[stop - PIECE : stop])))
        yield stop, key
