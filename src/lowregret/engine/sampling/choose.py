"""How a base is sampled: with our cache, with its own, or without any. Its own answers on short rows decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from lowregret.engine.forward.path import PROBE_TOLERANCE, refusal
from lowregret.engine.forward.positions import RowPositions
from lowregret.engine.sampling.decode import CachedDecoder, Decoder, PaddedDecoder, Prompts, RoutedForward
from lowregret.engine.sampling.plain import PlainDecoder
from lowregret.engine.sampling.prefixes import Prefixes
from lowregret.errors import SpecError

_LENGTHS = (1, 7)
"""Tokens of the prompts that a base is asked with."""
_LONG = 290
"""Of one more where a base keeps other states than keys and values: the scans of transformers' state-space and
linear-attention layers go by blocks of up to 256 tokens (`chunk_size`, `block_size` of their configurations)."""
_STEPS = 3
_SHARE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Largest difference that is rounding, as a share of how far the base's own log-probabilities are apart: a base that
hardly tells its contexts apart must be met as closely."""
_LEAST = {torch.float32: 2e-5, torch.bfloat16: 5e-3}
"""Nats that are rounding in any case: some hundred operations of 2⁻²⁴, and one of 2⁻⁸."""

Row = tuple[list[int], list[int]]
"""(prompt, the tokens that continue it)."""


@dataclass(frozen=True)
class SamplingPath:
    """One way to sample a base."""

    kind: type[Decoder]
    refused: str | None = None
    """Why no faster way was taken; None for the fastest."""

    @property
    def cached(self) -> bool:
        """Whether what was read is kept."""
        return self.kind is not PlainDecoder

    def lines(self) -> list[str]:
        """What a user should know: nothing unless sampling is slow."""
        if self.cached:
            return []
        return [f"sampling without a cache, which is slower: each token costs a pass over its row ({self.refused})"]

    def decoder(
        self,
        model: PreTrainedModel,
        pad_id: int,
        forward: RoutedForward,
        positions: RowPositions,
        prefixes: Prefixes | None = None,
    ) -> Decoder:
        """A decoder without rows; `prefixes`: what was read before, of use to the fastest way alone."""
        return _make(self.kind, model, pad_id, forward, positions, prefixes)


def refuse_empty(prompts: Prompts) -> None:
    """SpecError for a prompt without tokens."""
    if not all(prompt for group in prompts.values() for prompt in group):
        raise SpecError("a prompt has no token: give it at least the one that begins a text.")


@torch.no_grad()
def choose_sampling(
    model: PreTrainedModel,
    pad_id: int,
    forward: RoutedForward,
    positions: RowPositions,
    dtype: torch.dtype,
    *,
    end_to_end: bool,
) -> SamplingPath:
    """The fastest way by which rows get the log-probabilities that the base itself gives to each alone, without cache.

    `end_to_end`: whether the base takes rows that lie end to end. The way without a cache needs no proof.
    """
    plain = _keeps_keys_and_values(model)
    rows = _rows(model, pad_id, _LENGTHS if plain else (*_LENGTHS, _LONG))
    expected = _own(model, rows)
    kinds: list[type[Decoder]] = [CachedDecoder, PaddedDecoder] if plain and end_to_end else [PaddedDecoder]
    if not torch.isfinite(expected).all():  # nothing can be told from such a base; its samples will say so
        return SamplingPath(kinds[0])
    refused: list[str] = []
    for kind in kinds:
        problem = _problem(partial(_asked, kind, model, rows, pad_id, forward, positions), expected, dtype)
        if problem is None:
            return SamplingPath(kind, "; ".join(refused) or None)
        refused.append(problem)
    return SamplingPath(PlainDecoder, refused[-1])


def _make(
    kind: type[Decoder],
    model: PreTrainedModel,
    pad_id: int,
    forward: RoutedForward,
    positions: RowPositions,
    prefixes: Prefixes | None = None,
) -> Decoder:
    if kind is PaddedDecoder:
        return PaddedDecoder(model, pad_id, forward, positions)
    if kind is CachedDecoder:
        return CachedDecoder(model, forward, positions, prefixes)
    return PlainDecoder(model, forward)


def _rows(model: PreTrainedModel, pad_id: int, lengths: Sequence[int]) -> list[Row]:
    """Rows to ask a base with, of tokens from all over its vocabulary; none has the padding token."""
    embedding: Any = model.get_input_embeddings()
    spread = [number * embedding.weight.shape[0] // 9 for number in range(1, 9)]
    some = [token for token in spread if token != pad_id]
    room = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    most = room - _STEPS if isinstance(room, int) and room > _STEPS else max(lengths)
    found = []
    for number, length in enumerate(lengths):
        tokens = list(islice(cycle(some[number:] + some[:number]), min(length, most) + _STEPS))
        found.append((tokens[:-_STEPS], tokens[-_STEPS:]))
    return found


def _own(model: PreTrainedModel, rows: Sequence[Row]) -> Float[Tensor, "steps rows vocabulary"]:
    """log p after each prompt and each token that continues it, by the base's own code, row by row."""
    device = next(model.parameters()).device
    found = []
    for prompt, more in rows:
        logits = model(input_ids=torch.tensor([[*prompt, *more]], device=device), use_cache=False).logits[0]
        found.append(logits[len(prompt) - 1 :].float().log_softmax(-1))
    return torch.stack(found, 1)


def _asked(
    kind: type[Decoder],
    model: PreTrainedModel,
    rows: Sequence[Row],
    pad_id: int,
    forward: RoutedForward,
    positions: RowPositions,
) -> Float[Tensor, "steps rows vocabulary"]:
    """The same by a decoder, all rows together."""
    decoder = _make(kind, model, pad_id, forward, positions)
    begun = decoder.join({"base": [prompt for prompt, _ in rows]})
    assert begun is not None
    logits = [begun[0]]
    for chosen in zip(*(more for _, more in rows), strict=True):
        logits.append(decoder.step(torch.tensor(chosen, device=logits[0].device)))
    if any(each.shape != logits[0].shape for each in logits):
        raise NotImplementedError("with a cache, the base does not answer for the newest tokens alone")
    return torch.stack([each.float().log_softmax(-1) for each in logits])


def _problem(
    attempt: Callable[[], Float[Tensor, "steps rows vocabulary"]],
    expected: Float[Tensor, "steps rows vocabulary"],
    dtype: torch.dtype,
) -> str | None:
    """Why a way of sampling is not to be taken; None when it is."""
    try:
        found = attempt()
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # modeling code may refuse in any way it likes; ours may not
        return refusal(error)
    top = expected.topk(min(8, expected.shape[-1]), dim=-1).indices
    ours, own = found.gather(-1, top), expected.gather(-1, top)
    apart = float((expected - expected.flatten(0, 1).mean(0)).abs().max())
    worst = float((ours - own).abs().max())
    if worst <= max(_LEAST[dtype], min(PROBE_TOLERANCE[dtype], _SHARE[dtype] * apart)):
        return None
    return f"with its cache, log-probabilities differ from the base's own by {worst:.3g} nats"


def _keeps_keys_and_values(model: PreTrainedModel) -> bool:
    """Whether keys and values of every layer, seen in full or through a window, are all that the base remembers."""
    config = model.config.get_text_config(decoder=True)
    layers = {type(layer) for layer in DynamicCache(config=config).layers}
    return bool(layers) and layers <= {DynamicLayer, DynamicSlidingWindowLayer}
