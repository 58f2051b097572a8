"""A prompt and what has been drawn for it; and how rows of unlike parameters are drawn side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, final

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from lowregret.engine.sampling.draw import Completion, Likely, SamplingParams, StopTexts, draw, rows_of_uniforms

AHEAD = 64
"""Steps for which the numbers that rows draw by are put side by side at a time."""

End = Literal["stop", "length", "cancelled"]
"""A stop token or text, `max_tokens` or a constraint that gave up, or whoever asked."""


class Constraint(Protocol):
    """What a completion may be."""

    gave_up: bool
    """Whether it could not be kept to the end: what was drawn is not whole, and only its end is allowed."""

    def allowed(self, tokens: Sequence[int]) -> Bool[Tensor, " vocabulary"]:
        """The tokens that may come after these of a completion, one at least; asked for each, in order."""


@dataclass(eq=False)
class Row:
    """One prompt, how it is to be continued, and its completion so far."""

    policy: str
    prompt: Sequence[int]
    params: SamplingParams
    numbers: Float64[Tensor, " max_tokens"]
    """In [0, 1): what each token is drawn by."""
    texts: StopTexts
    constraint: Constraint | None = None
    """Tokens that it does not allow are not drawn, and what was drawn is looked at in each step."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """log p under the sampler, nats."""
    likely: list[Likely] = field(default_factory=list)
    """One a token, where `top_logprobs` is asked for."""
    ended: End | None = None
    cancelled: bool = False
    """Set by whoever wants no more of it."""

    @classmethod
    def of(
        cls,
        policy: str,
        prompt: Sequence[int],
        params: SamplingParams,
        texts: StopTexts,
        numbers: Float64[Tensor, " max_tokens"] | None = None,
        constraint: Constraint | None = None,
    ) -> Row:
        """By these numbers, or by the first ones of its own seed."""
        numbers = next(rows_of_uniforms(params)) if numbers is None else numbers
        return cls(policy, prompt, params, numbers, texts, constraint)

    @property
    def completion(self) -> Completion:
        """As it is now."""
        return Completion(tuple(self.tokens), tuple(self.logprobs), self.ended == "stop")

    def take(self, tokens: Sequence[int], logprobs: Sequence[float], likely: Sequence[Likely]) -> None:
        """Take tokens that were drawn, up to the one that ends the row."""
        params, first = self.params, len(self.tokens)
        ends = [first + at + 1 for at, token in enumerate(tokens) if token in params.stop_ids]
        gave_up = bool(ends) and self.constraint is not None and self.constraint.gave_up
        if ends:
            tokens = tokens[: ends[0] - first - gave_up]  # nobody chose the token that ends what is not whole
        whole = [*self.tokens, *tokens][: params.max_tokens]
        end = self.texts.end(whole, first) if self.texts else None
        if end is not None:
            whole = whole[:end]
        stopped = end is not None or bool(ends and ends[0] == len(whole))
        new = len(whole) - first
        self.tokens += whole[first:]
        self.logprobs += logprobs[:new]
        self.likely += likely[:new]
        cut = gave_up or len(whole) == params.max_tokens
        self.ended = "stop" if stopped else "length" if cut else self.ended
        if self.ended is None and self.cancelled:
            self.ended = "cancelled"


@dataclass(frozen=True)
class Drawn:
    """One token of each row, on the device."""

    tokens: Int[Tensor, " rows"]
    logprobs: Float[Tensor, " rows"]
    likely: tuple[Tensor, Tensor, Tensor] | None
    """Of the rows that asked: log p of the token drawn, and of the most likely ones with their ids."""


@final
class Picking:
    """Draws a token for each of some rows: those of equal parameters together, by the numbers of each."""

    def __init__(self, rows: Sequence[Row], drawn: Sequence[int], device: torch.device) -> None:
        """`drawn`: how many tokens each row has drawn already."""
        self._rows, self._drawn, self._device = rows, list(drawn), device
        self._numbers: Tensor | None = None
        self._column = 0
        kinds: dict[SamplingParams, list[int]] = {}
        for number, row in enumerate(rows):
            kinds.setdefault(_kind(row.params), []).append(number)
        self._kinds = [(kind, None if len(kinds) == 1 else self._index(own)) for kind, own in kinds.items()]
        self._changed = [
            (number, _Changes(row, drawn[number], device)) for number, row in enumerate(rows) if _changes(row)
        ]
        asked = [number for number, row in enumerate(rows) if row.params.top_logprobs is not None]
        self._most = max((rows[number].params.top_logprobs or 0 for number in asked), default=0)
        self.asked = asked
        """The rows that want to know what was likely."""
        self._asked = self._index(asked) if asked else None

    def _index(self, rows: Sequence[int]) -> Int[Tensor, " some"]:
        return torch.tensor(rows, device=self._device)

    def __call__(self, logits: Float[Tensor, "rows vocabulary"]) -> Drawn:
        """Draw by float32 logits."""
        numbers = self._next()
        own = logits
        if self._changed:
            own = logits.clone()
            for row, change in self._changed:
                own[row] = change(own[row])
        chosen, logprobs = self._draw(own, numbers)
        for row, change in self._changed:
            change.count(chosen[row])
        if self._asked is None:
            return Drawn(chosen, logprobs, None)
        plain = logits.index_select(0, self._asked).log_softmax(1)
        top, ids = plain.topk(min(self._most, plain.shape[1]), dim=1)
        return Drawn(chosen, logprobs, (plain.gather(1, chosen[self._asked][:, None])[:, 0], top, ids))

    def _draw(self, logits: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for kind, index in self._kinds:
            own, by = (logits, numbers) if index is None else (logits.index_select(0, index), numbers[index])
            found.append((index, draw(own, kind.temperature, by, kind.top_p, kind.top_k, kind.min_p)))
        if found[0][0] is None:
            return found[0][1]
        order = torch.cat([index for index, _ in found if index is not None]).argsort()
        tokens, logprobs = (torch.cat([drawn[at] for _, drawn in found]).index_select(0, order) for at in (0, 1))
        return tokens, logprobs

    def _next(self) -> Float64[Tensor, " rows"]:
        if self._numbers is None or self._column == self._numbers.shape[1]:
            parts = [row.numbers[at : at + AHEAD] for row, at in zip(self._rows, self._drawn, strict=True)]
            wide = max(max(map(len, parts)), 1)
            padded = [
                torch.nn.functional.pad(part, (0, wide - len(part))) if len(part) < wide else part for part in parts
            ]
            self._numbers, self._column = torch.stack(padded).to(self._device), 0
            self._drawn = [at + wide for at in self._drawn]
        self._column += 1
        return self._numbers[:, self._column - 1]


def _kind(params: SamplingParams) -> SamplingParams:
    """What says how a token is drawn."""
    if params.temperature == 0:
        return SamplingParams(temperature=0.0)
    return SamplingParams(temperature=params.temperature, top_p=params.top_p, top_k=params.top_k, min_p=params.min_p)


def _changes(row: Row) -> bool:
    """Whether a row's logits are changed before it draws."""
    plain = replace(row.params, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0, logit_bias=())
    return plain != row.params or row.constraint is not None


class _Changes:
    """Penalties and biases of one row."""

    def __init__(self, row: Row, drawn: int, device: torch.device) -> None:
        self._row, self._params = row, row.params
        self._prompt = torch.tensor(sorted(set(row.prompt)), device=device)
        self._drawn = torch.tensor(row.tokens[:drawn], dtype=torch.int64, device=device)
        self._counts: Tensor | None = None
        bias = row.params.logit_bias
        self._biased = torch.tensor([token for token, _ in bias], dtype=torch.int64, device=device)
        self._bias = torch.tensor([value for _, value in bias], device=device)

    def __call__(self, logits: Float[Tensor, " vocabulary"]) -> Float[Tensor, " vocabulary"]:
        params = self._params
        if self._counts is None:
            self._counts = torch.zeros_like(logits)
            self._counts.index_add_(0, self._drawn, torch.ones_like(self._drawn, dtype=logits.dtype))
        counts = self._counts
        if params.repetition_penalty != 1:
            known = counts > 0
            known[self._prompt] = True
            times = torch.where(logits > 0, 1 / params.repetition_penalty, params.repetition_penalty)
            logits = torch.where(known, logits * times, logits)
        if params.presence_penalty or params.frequency_penalty:
            logits = logits - params.presence_penalty * (counts > 0) - params.frequency_penalty * counts
        if len(self._biased):
            logits = logits.index_add(0, self._biased, self._bias)
        if self._row.constraint is None:
            return logits
        allowed = self._row.constraint.allowed(self._row.tokens)
        return logits.masked_fill(~allowed.to(logits.device), -torch.inf)

    def count(self, token: Int[Tensor, ""]) -> None:
        """A token was drawn."""
        assert self._counts is not None
        self._counts[token] += 1
