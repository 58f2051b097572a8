"""Angles of positions that depend on the longest row of a pass: computed for each row as if it were alone.

LongRoPE takes other frequencies once a row is longer than the base was first trained for, and dynamic NTK scaling makes
them from the length. transformers asks for the largest position of the whole pass, and dynamic scaling remembers that
of passes before, so what a row gets depends on its company. Such modules are found by what they do, not by name: a row
that is said to go on far beyond its end must have the angles that it has without that.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from lowregret.data.batches import Batch

Call = tuple[nn.Module, dict[str, Any], list[Tensor]]
"""A module, its arguments by name, and the tensors that it gave."""


class RowPositions:
    """The modules of a base whose angles depend on the longest row of a pass; none in most bases."""

    def __init__(self, model: nn.Module) -> None:
        self._candidates = [module for module in model.modules() if _takes_positions(module)]
        for module in self._candidates:
            module.__dict__.pop("forward", None)  # of an engine that had this base before
        self._calls: list[tuple[nn.Module, dict[str, Any]]] = []
        """How each module is called: one that serves several kinds of layers is called for each."""
        self._kinds: dict[int, tuple[bytes, ...]] = {}
        self.lengths: Int64[Tensor, "rows tokens"] | None = None
        """Tokens of the row of each position of a pass, those included that are not computed; a dimension may be one.
        Without it rows begin where positions do not grow."""

    def __bool__(self) -> bool:
        return bool(self._calls)

    @contextmanager
    def watched(self, calls: list[Call]) -> Iterator[None]:
        """Note every call that a pass makes; the modules are afterwards as they were."""

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            calls.append((module, _bound(module, args, kwargs), tree_flatten(output)[0]))

        with ExitStack() as stack:
            for module in self._candidates:
                stack.enter_context(_unchanged(module))
                stack.callback(module.register_forward_hook(note, with_kwargs=True).remove)
            yield

    def separate(self, near: Sequence[Call], far: Sequence[Call], tokens: int) -> None:
        """Take over the modules that gave the first `tokens` positions other angles when one far behind followed."""
        for (module, arguments, own), (_, _, others) in zip(near, far, strict=True):
            pairs = zip(own, others, strict=True)
            if all(torch.allclose(a[:, :tokens].float(), b[:, :tokens].float(), atol=1e-5) for a, b in pairs):
                continue
            self._calls.append((module, {**arguments, "x": torch.zeros((), device=own[0].device)}))
            module.forward = partial(self._by_rows, module)

    def kind(self, length: int) -> tuple[bytes, ...]:
        """What tells the frequencies of rows of so many tokens from those of others: equal ones have equal kinds."""
        if length not in self._kinds:
            found = []
            for module, arguments in self._calls:
                place = torch.tensor([[0, 1, length - 1]], device=arguments["x"].device)
                angles = tree_flatten(_as_loaded(module, {**arguments, "position_ids": place}))[0]
                found.append(b"".join(angle[:, :2].cpu().numpy().tobytes() for angle in angles))
            self._kinds[length] = tuple(found)
        return self._kinds[length]

    def apart(self, batches: Mapping[str, Batch]) -> dict[str, Batch]:
        """The batches, whose rows share what they begin with only where that is the same to the base."""
        return {
            name: b if b.prompts is None else replace(b, prompts=self.split(b.prompts, b.lengths))
            for name, b in batches.items()
        }

    def split(self, prompts: Int64[Tensor, " rows"], lengths: Int64[Tensor, " rows"]) -> Int64[Tensor, " rows"]:
        """Numbers of prompts, others for rows of another kind: what these begin with is not the same to the base."""
        kinds: dict[tuple[int, tuple[bytes, ...]], int] = {}
        pairs = zip(prompts.tolist(), map(self.kind, lengths.tolist()), strict=True)
        return torch.tensor([kinds.setdefault(pair, len(kinds)) for pair in pairs])

    def _by_rows(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The module's angles, those of each row as the module gives them to that row alone."""
        arguments = _bound(module, args, kwargs)
        places = arguments["position_ids"]
        lengths = row_lengths(places) if self.lengths is None else self.lengths.expand_as(places)
        groups: dict[tuple[bytes, ...], list[int]] = {}
        for length in lengths.unique().tolist():
            groups.setdefault(self.kind(length), []).append(length)
        found: list[Tensor] = []
        for members in groups.values():
            most = max(members)
            own = torch.isin(lengths, torch.tensor(members, device=lengths.device))
            asked = torch.cat([places[own].clamp(max=most - 1), places.new_tensor([most - 1])])[None]
            parts, form = tree_flatten(_as_loaded(module, {**arguments, "position_ids": asked}))
            if not found:
                found = [part.new_zeros(*places.shape, *part.shape[2:]) for part in parts]
            for whole, part in zip(found, parts, strict=True):
                whole[own] = part[0, :-1]
        return tree_unflatten(found, form)


def row_lengths(places: Int64[Tensor, "rows tokens"]) -> Int64[Tensor, "rows tokens"]:
    """Positions → the tokens of the row of each: a row begins where positions do not grow, its largest is its last."""
    begins = torch.nn.functional.pad(places[:, 1:] <= places[:, :-1], (1, 0), value=True)
    row = begins.flatten().cumsum(0) - 1
    longest = torch.zeros(int(row[-1]) + 1, dtype=places.dtype, device=places.device)
    return longest.scatter_reduce_(0, row, places.flatten() + 1, "amax")[row].view_as(places)


def _takes_positions(module: nn.Module) -> bool:
    """Whether a module makes angles of positions: it takes these and a tensor for its type, and has no weights."""
    named = inspect.signature(type(module).forward).parameters
    return {"x", "position_ids"} <= set(named) and not any(True for _ in module.parameters())


def _bound(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name."""
    named = dict(inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments)
    named.pop("self")
    return named


def _as_loaded(module: nn.Module, arguments: dict[str, Any]) -> Any:
    """What a module gives that remembers no pass before this one, and will remember nothing of it."""
    with _unchanged(module):
        return type(module).forward(module, **arguments)


@contextmanager
def _unchanged(module: nn.Module) -> Iterator[None]:
    """Attributes and buffers afterwards as before."""
    state, buffers = dict(module.__dict__), dict(module._buffers)
    try:
        yield
    finally:
        for new in module.__dict__.keys() - state.keys():
            del module.__dict__[new]
        module.__dict__.update(state)
        module._buffers.clear()
        module._buffers.update(buffers)
