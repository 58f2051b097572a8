"""Attention over rows that lie end to end in one sequence, and a layout of the rows that wastes little.

transformers hands every layer's attention to a function of a name that a configuration holds; this one is put in its
place for a pass. It is told where the rows lie, groups those of like length, and runs torch's
`scaled_dot_product_attention` on each group: everything else in a model works token by token and never sees padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel

NAME = "lowregret_rows"
SLACK, SLACK_TOKENS = 1.25, 8
"""A group takes rows up to 1.25 times its shortest plus 8 tokens: attention is a small part of a pass, and fewer groups
cost less than a little padding."""


@dataclass(frozen=True)
class Rows:
    """Where the rows of a pass lie, and the groups in which attention takes them."""

    groups: tuple[tuple[int, int], ...]
    """(rows, length) of each padded group, in slot order."""
    slots: int
    """Padded positions in all groups."""
    slot: Tensor | None
    """The slot of each token: int64 [tokens]; None when tokens fill the slots as they lie."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Rows:
        """Group rows of these lengths that lie end to end."""
        groups: list[list[int]] = []
        for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
            if groups and lengths[row] <= SLACK * lengths[groups[-1][0]] + SLACK_TOKENS:
                groups[-1].append(row)
            else:
                groups.append([row])
        first = [0] * len(lengths)
        slots = 0
        for group in groups:
            for row in group:
                first[row] = slots
                slots += lengths[group[-1]]
        slot = torch.cat([torch.arange(start, start + n) for start, n in zip(first, lengths, strict=True)])
        shapes = tuple((len(group), lengths[group[-1]]) for group in groups)
        plain = slots == len(slot) and torch.equal(slot, torch.arange(slots))
        return cls(shapes, slots, None if plain else slot.to(device))


def attend(
    module: torch.nn.Module,
    query: Float[Tensor, "one heads tokens d"],
    key: Float[Tensor, "one kv_heads tokens d"],
    value: Float[Tensor, "one kv_heads tokens d_value"],
    attention_mask: Tensor | None,
    *,
    rows: Rows,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "one tokens heads d_value"], None]:
    """Causal attention within each row, in the form in which transformers calls an attention function.

    Raises NotImplementedError for what it does not compute (soft-capped scores, sinks, biases on scores): the engine
    then leaves such a base its own attention.
    """
    asked = {name for name in ("softcap", "s_aux", "position_bias", "head_mask") if others.get(name) is not None}
    if asked or attention_mask is not None or dropout or not getattr(module, "is_causal", True):
        raise NotImplementedError(f"attention with {', '.join(sorted(asked)) or 'a mask or dropout'}")
    padded = [states[0].transpose(0, 1) for states in (query, key, value)]
    if rows.slot is not None:
        padded = [_Pad.apply(states, rows.slot, rows.slots) for states in padded]  # type: ignore[no-untyped-call]
    outputs, start = [], 0
    for count, length in rows.groups:
        part = slice(start, start + count * length)
        q, k, v = (states[part].unflatten(0, (count, length)).transpose(1, 2) for states in padded)
        mask = None if sliding_window is None or length <= sliding_window else _window(length, sliding_window, q.device)
        output = F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=mask is None, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        outputs.append(output.transpose(1, 2).flatten(0, 1))
        start = part.stop
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return (joined if rows.slot is None else _Unpad.apply(joined, rows.slot))[None], None  # type: ignore[no-untyped-call]


AttentionInterface.register(NAME, attend)


def configurations(model: PreTrainedModel) -> list[PretrainedConfig]:
    """The configuration objects in which a model's layers look up their attention."""
    found = [getattr(module, "config", None) for module in model.modules()]
    return list({id(config): config for config in found if isinstance(config, PretrainedConfig)}.values())


def tells_all(configs: Sequence[PretrainedConfig]) -> bool:
    """Whether a registered attention is told all it must know.

    That a layer cuts its rows into chunks (Llama 4) is said by its mask alone, and no short row shows it.
    """
    return not any("chunked_attention" in (getattr(config, "layer_types", None) or ()) for config in configs)


@contextmanager
def attending(configs: Sequence[PretrainedConfig], name: str = NAME) -> Iterator[None]:
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


def _window(length: int, window: int, device: torch.device) -> Tensor:
    """Position t sees t − window + 1 … t: bool [length, length]."""
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
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
