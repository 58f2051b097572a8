"""One completion, told token by token while it is drawn, and as text that only grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lowregret.engine.sampling.batcher import Batcher
from lowregret.engine.sampling.draw import Completion, SamplingParams, StopTexts
from lowregret.engine.sampling.rows import Row

OnToken = Callable[[int], bool]
"""Told of each token; False draws no more of them."""
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""What decoders write for the bytes of a character that is not whole yet."""
_TAIL, _OVERLAP = 256, 16
"""Tokens that are decoded anew with each one, at most, and those before them that go with them."""


class Listener:
    """Who is told of the tokens: on another process, to which this is sent, nobody, and all of them are drawn."""

    def __init__(self, on_token: OnToken) -> None:
        self._on_token = on_token

    def __call__(self, token: int) -> bool:
        return self._on_token(token)

    def __reduce__(self) -> tuple[type[Listener], tuple[OnToken]]:
        return Listener, (_go_on,)


def _go_on(token: int) -> bool:
    return True


def stream(
    batcher: Batcher,
    policy: str,
    prompt: Sequence[int],
    params: SamplingParams,
    decode: Callable[[list[int]], str],
    on_token: OnToken,
) -> Completion:
    """The completion that `generate` gives of one prompt, by the same random numbers.

    `decode` is what stop texts are looked for with. One that `on_token` ends is not `finished`.
    """
    row = Row.of(policy, prompt, params, StopTexts(params.stop_texts, decode))
    batcher.add(row)
    while row.ended is None and not row.cancelled:
        batcher.step(live=True)
        row.cancelled = not on_token(row.tokens[-1])
    return row.completion


def completion_text(completion: Completion, params: SamplingParams, decode: Callable[[list[int]], str]) -> str:
    """What a completion says: without the token that ended it, cut before the stop text that did."""
    ids = list(completion.token_ids)
    if completion.finished and ids[-1] in params.stop_ids:
        ids.pop()
    return _before(decode(ids), params.stop_texts)


class TextStream:
    """Text of tokens as they come: whole characters, and nothing that a stop text may yet take back.

    What `add` and `end` give, joined, is the `completion_text` of the tokens.
    """

    def __init__(self, params: SamplingParams, decode: Callable[[list[int]], str]) -> None:
        """`decode` must give a longer text for more tokens, so none that tidies blanks."""
        self._params, self._decode = params, decode
        self._told = 0
        self._sure = ""
        """The text of the first tokens, which are not decoded again."""
        self._tail: list[int] = []
        """The tokens behind them, after the last few of them: a decoder may look at what is before."""
        self._overlap = 0
        """Characters of the tail that are in `_sure`."""

    def add(self, token: int) -> str:
        """The text that is certain now and was not before."""
        if token in self._params.stop_ids:
            return ""
        self._tail.append(token)
        whole = self._sure + self._decode(self._tail)[self._overlap :]
        if len(self._tail) >= _TAIL and not whole.endswith(_INCOMPLETE):
            self._sure, self._tail = whole, self._tail[-_OVERLAP:]
            self._overlap = len(self._decode(self._tail))
        text = _before(whole, self._params.stop_texts).rstrip(_INCOMPLETE)
        return self._new(text[: len(text) - _may_begin(text, self._params.stop_texts)])

    def end(self, completion: Completion) -> str:
        """What is left of the text of the whole."""
        return self._new(completion_text(completion, self._params, self._decode))

    def _new(self, text: str) -> str:
        new = text[self._told :]
        self._told = max(self._told, len(text))
        return new


def _before(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of these."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


def _may_begin(text: str, stops: Sequence[str]) -> int:
    """Characters at the end that may be the beginning of a stop text."""
    lengths = [length for stop in stops for length in range(1, len(stop)) if text.endswith(stop[:length])]
    return max(lengths, default=0)
