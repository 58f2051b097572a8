"""Which slots of a cache hold which rows: slots of so many columns are a pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 128
"""Columns of the smallest slots."""
GROWTH = 1.25
"""Slots that a pool gets when it has too few, as a share of those that it has."""
SPARSE = 0.75
"""A pool is made anew when no more than this share of its used slots holds a row: that costs about what two steps save.
"""


def capacity(tokens: int) -> int:
    """Columns of the slots for rows of up to so many tokens: a power of 2 times BLOCK, or 1.5 times that."""
    columns = BLOCK
    while columns < tokens:
        columns *= 2
    between = columns // 4 * 3
    return between if between > BLOCK and tokens <= between else columns


@dataclass(eq=False)
class Slot:
    """Where a row lies."""

    pool: Pool
    place: int
    length: int
    """Tokens of the row, that of the step to come included."""


@final
class Pool:
    """Slots of equally many columns, and the rows in them; rows that decode are laid out by `plan`."""

    def __init__(self, columns: int, device: torch.device) -> None:
        self.columns = columns
        self._device = device
        self._held: list[Slot | None] = []
        self._stale: list[int] = []
        """Columns that former rows of a slot have written."""
        self.slots = 0
        """Slots that there is to be memory for."""
        self.used = 0
        """Slots up to the last that holds a row."""
        self.members: Tensor | None = None
        """The rows of the batch in this pool, by place; None when the pool holds the batch in its order."""
        self.batch: Tensor | None = None
        """The same with a row for each place up to `used`, any row where there is none; or None."""
        self._spread: Tensor | None = None
        """The place of each member; None when no place is free."""
        self._places: list[int] = []
        """Those that hold a row."""
        self._lengths = torch.empty(0, dtype=torch.int64, device=device)
        self._newest: dict[int, Tensor] = {}
        self._seen: dict[int | None, tuple[slice, Tensor | None]] = {}

    @property
    def rows(self) -> list[Slot]:
        """Those in it, by place."""
        return [slot for slot in self._held if slot is not None]

    @property
    def longest(self) -> int:
        """Columns that may be written."""
        return max([*self._stale, *(slot.length for slot in self.rows)], default=0)

    @property
    def sparse(self) -> bool:
        """Whether too many slots are free among those in use."""
        places = [slot.place for slot in self.rows]
        return len(places) <= SPARSE * (max(places) + 1)

    def reserve(self, rows: int) -> None:
        """Make room for so many rows more."""
        needed = max(len(self.rows) + rows, len(self._held))
        if needed > self.slots:
            self.slots = max(needed, int(self.slots * GROWTH))

    def take(self, length: int) -> tuple[Slot, int]:
        """A slot for a new row, and how many columns former rows of it have written."""
        slot = Slot(self, 0, length)
        return slot, self.put(slot)

    def put(self, slot: Slot) -> int:
        """Place a row here that comes from elsewhere; how many columns former rows of the place have written."""
        if None in self._held:
            place = self._held.index(None)
        else:
            place = len(self._held)
            self._held.append(None)
            self._stale.append(0)
            self.reserve(0)
        self._held[place], slot.pool, slot.place = slot, self, place
        return self._stale[place]

    def free(self, slot: Slot) -> None:
        """Its row has left."""
        self._held[slot.place] = None
        self._stale[slot.place] = max(self._stale[slot.place], min(slot.length, self.columns))

    def renumber(self, held: Sequence[Slot]) -> None:
        """These rows lie in the first slots now, and there are no others."""
        self._held, self._stale = list(held), [0] * len(held)
        self.slots = len(held)
        for place, slot in enumerate(held):
            slot.place = place

    def plan(self, batch: Sequence[Slot]) -> list[int]:
        """Lay the rows out for steps; by place, the row of the batch, or -1."""
        row = {id(slot): number for number, slot in enumerate(batch)}
        self.used = 1 + max(slot.place for slot in self.rows)
        found = [-1 if slot is None else row[id(slot)] for slot in self._held[: self.used]]
        members = [number for number in found if number >= 0]
        self._places = [slot.place for slot in self.rows]
        plain = found == list(range(len(batch)))
        self.members = None if plain else torch.tensor(members, device=self._device)
        self.batch = None if plain else torch.tensor([max(number, 0) for number in found], device=self._device)
        self._spread = None if len(members) == self.used else torch.tensor(self._places, device=self._device)
        lengths = [1 if slot is None else slot.length for slot in self._held[: self.used]]
        self._lengths = torch.tensor(lengths, device=self._device)
        self._newest, self._seen = {}, {}
        return found

    def advance(self) -> None:
        """Each row has one token more."""
        self._lengths += 1
        self._seen = {}
        for where in self._newest.values():
            where += 1

    def newest(self, kv_heads: int) -> Int[Tensor, " rows_times_kv_heads"]:
        """Where the newest token of each row lies among [slots · kv_heads · columns] vectors."""
        found = self._newest.get(kv_heads)
        if found is None:
            places = torch.tensor(self._places, device=self._device)
            lengths = self._lengths if self._spread is None else self._lengths[self._spread]
            heads = places[:, None] * kv_heads + torch.arange(kv_heads, device=self._device)
            found = self._newest[kv_heads] = (heads * self.columns + lengths[:, None] - 1).flatten()
        return found

    def seen(self, window: int | None) -> tuple[slice, Float[Tensor, "used columns"] | None]:
        """The columns that some row sees, and −inf where one does not; None when all see all of them."""
        found = self._seen.get(window)
        if found is None:
            lengths = [slot.length for slot in self.rows]
            first = 0 if window is None else max(min(lengths) - window, 0)
            seen = slice(first, max(lengths))
            found = self._seen[window] = seen, self._hidden(seen, window) if min(lengths) < max(lengths) else None
        return found

    def _hidden(self, seen: slice, window: int | None) -> Float[Tensor, "used columns"]:
        column, lengths = torch.arange(seen.start, seen.stop, device=self._device), self._lengths[:, None]
        outside = column >= lengths
        if window is not None:
            outside |= column < lengths - window
        hidden = torch.zeros(outside.shape, device=self._device)
        return hidden.masked_fill_(outside, -torch.inf)
