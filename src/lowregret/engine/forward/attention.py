"""Attention over rows that lie end to end in one sequence, and a layout of the rows that wastes little.

transformers hands every layer's attention to a function of a name that a configuration holds; this one is put in its
place for a pass. It is told where the rows lie, and runs torch's kernel for such rows where the device has one; else it
groups those of like length and runs `scaled_dot_product_attention` on each group. Everything else in a model works
token by token and never sees padding. A row may go on from another, as completions do from a prompt that they share:
its queries see the other's keys too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel

from lowregret.engine.forward.varlen import takes, varlen
from lowregret.lora.kernels import moved

NAME = "lowregret_rows"
SLACK, SLACK_TOKENS = 1.25, 8
"""A group takes rows up to 1.25 times its shortest plus 8 tokens: attention is a small part of a pass, and fewer groups
cost less than a little padding."""


MASK_SLOTS = 2**22
"""Rows that go on from rows of unlike length are taken together up to so many scores a head: each has its own mask."""


@dataclass(frozen=True)
class RowGroup:
    """Rows of like length that attention takes together."""

    rows: int
    length: int
    """Of the longest: queries of a row."""
    before: int = 0
    """Keys of the row that these go on from, the longest of them; they lie before a row's own, aligned at their end."""
    seen: Bool[Tensor, "_ one length keys"] | None = None
    """Which keys a query sees; None when these are just its own row's, up to itself."""

    @property
    def keys(self) -> int:
        """Of a row."""
        return self.before + self.length

    def mask(self, window: int | None, device: torch.device) -> Bool[Tensor, "*rows length keys"] | None:
        """Which keys a query sees, no more than the last `window` of them; None for all of its row up to itself."""
        if window is None or self.keys <= window:
            return self.seen
        inside = _window(self.length, self.before, window, device)
        return inside if self.seen is None else inside & self.seen


@dataclass(frozen=True)
class KeySlots:
    """Where keys and values lie when rows go on from others: those of a row that is gone on from lie there often."""

    token: Int64[Tensor, " key_slots"]
    """Whose they are. Padding holds those of a token of the same row: no other row's numbers, finite or not."""
    own: Int64[Tensor, " tokens"]
    """The slot of each token in its own row."""
    copies: tuple[tuple[Int64[Tensor, " _"], Int64[Tensor, " _"]], ...]
    """(tokens, their other slots, all once, then all again), the tokens by how many they have."""


@dataclass(frozen=True)
class RowGrid:
    """Rows of like length side by side, padded: as `scaled_dot_product_attention` takes them."""

    groups: tuple[RowGroup, ...]
    """In slot order."""
    slots: int
    """Padded queries in all groups."""
    slot: Int64[Tensor, " tokens"] | None
    """The slot of each token's query; None when tokens fill the slots as they lie."""
    keys: KeySlots | None
    """None when keys and values lie as queries do."""

    @classmethod
    def of(
        cls, lengths: Sequence[int], heads: Sequence[int], after: Sequence[int | None], device: torch.device
    ) -> RowGrid:
        """Group rows of these lengths; `heads` are those of the rows that they go on from, 0 where they do not."""
        members = _alike([row for row, head in enumerate(heads) if not head], lengths)
        for part in _alike([row for row, head in enumerate(heads) if head], lengths):
            for like in _alike(part, heads):
                members += _within_mask(like, lengths, heads)
        groups = [_group(part, lengths, heads, device) for part in members]
        slots, first = _places(members, [group.length for group in groups], len(lengths))
        slot = _spans(first, lengths)
        plain = slots == sum(lengths) and list(first) == [0, *accumulate(lengths)][:-1]
        keys = _keys(members, [group.before for group in groups], lengths, after, device) if any(heads) else None
        return cls(tuple(groups), slots, None if plain else moved(slot, device), keys)


@dataclass(frozen=True)
class RowEnds:
    """The same rows end to end, as torch's kernel for them takes them (`varlen.py`): nothing is padded."""

    queries: Int32[Tensor, " one_more"]
    """Where the queries of each row begin; then where the last end."""
    keys: Int32[Tensor, " one_more"]
    """The same of the keys, those of what a row goes on from before its own."""
    most_queries: int
    most_keys: int
    slots: KeySlots | None
    """None when keys and values lie as queries do."""

    @classmethod
    def of(
        cls, lengths: Sequence[int], heads: Sequence[int], after: Sequence[int | None], device: torch.device
    ) -> RowEnds:
        """As `RowGrid.of`."""
        seen = [head + length for head, length in zip(heads, lengths, strict=True)]
        queries, keys = (
            moved(torch.tensor([0, *accumulate(sizes)], dtype=torch.int32), device) for sizes in (lengths, seen)
        )
        slots = _keys([[row] for row in range(len(lengths))], heads, lengths, after, device) if any(heads) else None
        return cls(queries, keys, max(lengths), max(seen), slots)


@dataclass(frozen=True)
class VarlenRows:
    """Where the rows of a pass lie, end to end."""

    lengths: tuple[int, ...]
    after: tuple[int | None, ...]
    """Of each row which other it goes on from, all of which it sees; that one goes on from none."""
    device: torch.device
    varlen: bool = False
    """Whether attention takes them as they lie (`lora.kernels`)."""

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        device: torch.device,
        after: Sequence[int | None] = (),
        *,
        varlen: bool = False,
    ) -> VarlenRows:
        """Rows of these lengths; `after` as in the field, none goes on from another where it is empty."""
        return cls(tuple(lengths), tuple(after) or (None,) * len(lengths), device, varlen)

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return sum(self.lengths)

    @cached_property
    def grid(self) -> RowGrid:
        """Made when a layer first asks for it."""
        return RowGrid.of(self.lengths, self._heads, self.after, self.device)

    @cached_property
    def ends(self) -> RowEnds:
        """Made when a layer first asks for it."""
        return RowEnds.of(self.lengths, self._heads, self.after, self.device)

    @property
    def _heads(self) -> list[int]:
        return [0 if row is None else self.lengths[row] for row in self.after]


def _alike(rows: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Rows by length, in groups of little padding."""
    groups: list[list[int]] = []
    for row in sorted(rows, key=lambda row: lengths[row]):
        if groups and lengths[row] <= SLACK * lengths[groups[-1][0]] + SLACK_TOKENS:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _within_mask(rows: list[int], lengths: Sequence[int], heads: Sequence[int]) -> list[list[int]]:
    """The same group, or one for each length of what is gone on from, where a mask of each row's own is too large."""
    length = max(lengths[row] for row in rows)
    if len(rows) * length * (heads[rows[-1]] + length) <= MASK_SLOTS:
        return [rows]
    return [list(part) for _, part in groupby(rows, key=lambda row: heads[row])]


def _group(rows: Sequence[int], lengths: Sequence[int], heads: Sequence[int], device: torch.device) -> RowGroup:
    length, before = (max(of[row] for row in rows) for of in (lengths, heads))
    if not before:
        return RowGroup(len(rows), length)
    starts = torch.tensor(sorted({before - heads[row] for row in rows}))
    if len(starts) > 1:
        starts = torch.tensor([before - heads[row] for row in rows])
    key = torch.arange(before + length)
    causal = key <= torch.arange(before, before + length)[:, None]
    return RowGroup(len(rows), length, before, moved(causal & (key >= starts[:, None, None, None]), device))


def _places(members: Sequence[Sequence[int]], widths: Sequence[int], rows: int) -> tuple[int, list[int]]:
    """(slots of all groups, the first slot of each row) for groups of rows that are so wide."""
    first = [0] * rows
    slots = 0
    for part, width in zip(members, widths, strict=True):
        for row in part:
            first[row] = slots
            slots += width
    return slots, first


def _spans(starts: Sequence[int], lengths: Sequence[int]) -> Int64[Tensor, " total"]:
    """start, start + 1, … of each, end to end."""
    return torch.cat([torch.arange(start, start + n) for start, n in zip(starts, lengths, strict=True)])


def _keys(
    members: Sequence[Sequence[int]],
    before: Sequence[int],
    lengths: Sequence[int],
    after: Sequence[int | None],
    device: torch.device,
) -> KeySlots:
    """Slots for keys of rows, some with others' before their own: so many in each part, aligned at their end."""
    widths = [most + max(lengths[row] for row in part) for part, most in zip(members, before, strict=True)]
    slots, first = _places(members, widths, len(lengths))
    token = torch.empty(slots, dtype=torch.int64)
    begins = [0, *accumulate(lengths)]
    own = [0] * len(lengths)
    copies: dict[int, list[int]] = {}
    for part, most, width in zip(members, before, widths, strict=True):
        for row in part:
            head = after[row]
            token[first[row] : first[row] + width] = begins[row]
            own[row] = first[row] + most
            if head is not None:
                copies.setdefault(head, []).append(own[row] - lengths[head])
                token[own[row] - lengths[head] : own[row]] = torch.arange(begins[head], begins[head + 1])
            token[own[row] : own[row] + lengths[row]] = torch.arange(begins[row], begins[row + 1])
    by_times: dict[int, list[int]] = {}
    for head, starts in copies.items():
        by_times.setdefault(len(starts), []).append(head)
    return KeySlots(
        moved(token, device),
        moved(_spans(own, lengths), device),
        tuple(
            (
                moved(_spans([begins[head] for head in heads], [lengths[head] for head in heads]), device),
                moved(
                    _spans(
                        [copies[head][time] for time in range(times) for head in heads],
                        [lengths[head] for _ in range(times) for head in heads],
                    ),
                    device,
                ),
            )
            for times, heads in by_times.items()
        ),
    )


def attend(
    module: torch.nn.Module,
    query: Float[Tensor, "one heads tokens d"],
    key: Float[Tensor, "one kv_heads tokens d"],
    value: Float[Tensor, "one kv_heads tokens d_value"],
    attention_mask: Tensor | None,
    *,
    rows: VarlenRows,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "one tokens heads d_value"], None]:
    """Causal attention within each row, in the form in which transformers calls an attention function.

    Raises NotImplementedError for what it does not compute (soft-capped scores, sinks, biases on scores, states that
    are not those of the rows): the engine then leaves such a base its own attention.
    """
    asked = {name for name in ("softcap", "s_aux", "position_bias", "head_mask") if others.get(name) is not None}
    if asked or attention_mask is not None or dropout or not getattr(module, "is_causal", True):
        raise NotImplementedError(f"attention with {', '.join(sorted(asked)) or 'a mask or dropout'}")
    if any(states.shape[0] != 1 or states.shape[2] != rows.tokens for states in (query, key, value)):
        raise NotImplementedError(f"attention over states of shape {tuple(key.shape)} for {rows.tokens} tokens")
    flat = [states[0].transpose(0, 1) for states in (query, key, value)]
    if rows.varlen and takes(*flat):
        ends = rows.ends
        if ends.slots is not None:
            flat[1:] = [_Spread.apply(states, ends.slots) for states in flat[1:]]  # type: ignore[no-untyped-call]
        found = varlen(
            (flat[0], flat[1], flat[2]),
            (ends.queries, ends.keys),
            (ends.most_queries, ends.most_keys),
            scaling=scaling,
            window=sliding_window,
        )
        return found[None], None
    return _by_groups(flat, rows.grid, scaling, sliding_window)[None], None


def _by_groups(
    padded: list[Tensor], grid: RowGrid, scaling: float | None, window: int | None
) -> Float[Tensor, "tokens heads d_value"]:
    """Attention of one group of rows after the other; `padded` are queries, keys and values [tokens, heads, d]."""
    if grid.slot is not None:
        spread = padded if grid.keys is None else padded[:1]
        padded[: len(spread)] = [_Pad.apply(states, grid.slot, grid.slots) for states in spread]  # type: ignore[no-untyped-call]
    if grid.keys is not None:
        padded[1:] = [_Spread.apply(states, grid.keys) for states in padded[1:]]  # type: ignore[no-untyped-call]
    outputs, start, first = [], 0, 0
    for group in grid.groups:
        part, seen = slice(start, start + group.rows * group.length), slice(first, first + group.rows * group.keys)
        q = padded[0][part].unflatten(0, (group.rows, group.length)).transpose(1, 2)
        k, v = (states[seen].unflatten(0, (group.rows, group.keys)).transpose(1, 2) for states in padded[1:])
        mask = group.mask(window, q.device)
        times = q.shape[1] // k.shape[1]
        if mask is not None and times > 1 and q.device.type != "cpu":
            # No fused CUDA kernel takes a mask and heads that share keys: torch would keep all scores.
            k, v = (states.repeat_interleave(times, dim=1) for states in (k, v))
        output = F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=mask is None, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        outputs.append(output.transpose(1, 2).flatten(0, 1))
        start, first = part.stop, seen.stop
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return joined if grid.slot is None else _Unpad.apply(joined, grid.slot)  # type: ignore[no-untyped-call]


AttentionInterface.register(NAME, attend)


def configurations(model: PreTrainedModel) -> list[PretrainedConfig]:
    """The configuration objects in which a model's layers look up their attention."""
    found = [getattr(module, "config", None) for module in model.modules()]
    return list({id(config): config for config in found if isinstance(config, PretrainedConfig)}.values())


def supports_varlen(configs: Sequence[PretrainedConfig]) -> bool:
    """Whether a registered attention is told all it must know.

    That a layer cuts its rows into chunks (Llama 4) is said by its mask alone, and no short row shows it.
    """
    return not any("chunked_attention" in (getattr(config, "layer_types", None) or ()) for config in configs)


@contextmanager
def patched_attention(configs: Sequence[PretrainedConfig], name: str = NAME) -> Iterator[None]:
    """A registered attention, `attend` unless another is named, instead of the model's own.

    Backward passes belong into the context too: under activation checkpointing they run the forward again.
    """
    before = [config._attn_implementation_internal for config in configs]
    try:
        for config in configs:
            config._attn_implementation_internal = name
        yield
    finally:
        for config, own in zip(configs, before, strict=True):
            config._attn_implementation_internal = own


def _window(length: int, before: int, window: int, device: torch.device) -> Bool[Tensor, "length keys"]:
    """Query t, behind `before` others, sees keys before + t − window + 1 … before + t."""
    query = torch.arange(before, before + length, device=device)[:, None]
    distance = query - torch.arange(before + length, device=device)
    return (distance >= 0) & (distance < window)


class _Pad(torch.autograd.Function):
    """out[slot[t]] = x[t], zero elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slot: Tensor, slots: int) -> Tensor:
        ctx.save_for_backward(slot)
        return x.new_zeros(slots, *x.shape[1:]).index_copy_(0, slot, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        (slot,) = ctx.saved_tensors
        return dout.index_select(0, slot), None, None


class _Unpad(torch.autograd.Function):
    """out[t] = x[slot[t]]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slot: Tensor) -> Tensor:
        ctx.save_for_backward(slot)
        ctx.slots = x.shape[0]
        return x.index_select(0, slot)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        (slot,) = ctx.saved_tensors
        return dout.new_zeros(ctx.slots, *dout.shape[1:]).index_copy_(0, slot, dout), None


class _Spread(torch.autograd.Function):
    """out[s] = x[token[s]]. Padding, which no query sees, has no gradient and is passed over."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keys: KeySlots) -> Tensor:
        ctx.keys = keys
        return x.index_select(0, keys.token)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        keys: KeySlots = ctx.keys
        dx = dout.index_select(0, keys.own)
        for tokens, slots in keys.copies:
            copied = dout.index_select(0, slots).unflatten(0, (-1, len(tokens)))
            dx.index_add_(0, tokens, copied.sum(0))
        return dx, None
