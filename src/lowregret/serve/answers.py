"""What was drawn, in OpenAI's words: choices, chunks, log-probabilities, calls of tools, usage."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

from lowregret.engine.sampling.draw import Completion, Likely, SamplingParams
from lowregret.engine.sampling.stream import TextStream
from lowregret.serve.prompts import Prompts
from lowregret.serve.worker import News
from lowregret.strict_json import to_json

_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
_OPENS = "<tool_call>"


@dataclass(eq=False)
class Choice:
    """One completion as it grows."""

    params: SamplingParams
    prompts: Prompts
    calls: bool = False
    """Whether calls of tools are looked for: text from the first on is kept back until the end."""
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    likely: list[Likely] = field(default_factory=list)
    end: str | None = None
    """OpenAI's `finish_reason`."""
    offset: int = 0
    """Characters of the tokens before the newest, each spelled alone, where log-probabilities are told."""
    _newest: int = 0
    _told: int = 0

    def __post_init__(self) -> None:
        self._stream = TextStream(self.params, self.prompts.decode)

    def take(self, news: News) -> str:
        """Take what was drawn; the text that can be shown now."""
        if self.params.top_logprobs is not None:
            self.offset += self._newest
            self._newest = sum(len(self.prompts.piece(token)) for token in news.tokens)
        for token in news.tokens:
            self.tokens.append(token)
            self.text += self._stream.add(token)
        self.likely += news.likely
        if news.end is not None:
            whole = Completion(tuple(self.tokens), (0.0,) * len(self.tokens), news.end == "stop")
            self.text += self._stream.end(whole)
            self.end = "tool_calls" if self.tool_calls() else news.end
        shown = self.content()
        new, self._told = shown[self._told :], max(self._told, len(shown))
        return new

    def content(self) -> str:
        """The text so far without calls of tools, and without what may become one."""
        if not self.calls:
            return self.text
        if self.end is not None:
            return _CALL.sub("", self.text).rstrip() if self.tool_calls() else self.text
        place = self.text.find(_OPENS)
        if place >= 0:
            return self.text[:place].rstrip()
        begun = max((size for size in range(1, len(_OPENS)) if self.text.endswith(_OPENS[:size])), default=0)
        return self.text[: len(self.text) - begun].rstrip()

    def tool_calls(self) -> list[dict[str, Any]]:
        """The calls that a whole text makes, written as Hermes and Qwen write them."""
        if not self.calls:
            return []
        found = []
        for written in _CALL.findall(self.text):
            try:
                call = json.loads(written)
                if isinstance(call, dict) and isinstance(call.get("name"), str):
                    arguments = call.get("arguments", call.get("parameters", {}))
                    told = arguments if isinstance(arguments, str) else to_json(arguments, ensure_ascii=False)
                    found.append({"type": "function", "function": {"name": call["name"], "arguments": told}})
            except (ValueError, RecursionError):  # a model's text may be nested deeper than can be read, or written
                continue
        return found


@final
class Form:
    """How answers of one endpoint are written; `number` is the request's own."""

    def __init__(self, kind: str, number: str, created: int, model: str, prompts: Prompts) -> None:
        """`kind`: `chat` or `text`."""
        self.chat = kind == "chat"
        self.id = f"{'chatcmpl' if self.chat else 'cmpl'}-{number}"
        self._created, self._model, self._prompts = created, model, prompts

    def whole(self, choices: Sequence[Choice], before: Sequence[str], usage: dict[str, Any]) -> dict[str, Any]:
        """An answer that is not streamed; `before`: what precedes each choice's text."""
        told = [
            self._choice(number, choice, text)
            for number, (choice, text) in enumerate(zip(choices, before, strict=True))
        ]
        return {**self._head("chat.completion"), "choices": told, "usage": usage}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind if self.chat else "text_completion",
            "created": self._created,
            "model": self._model,
        }

    def _choice(self, number: int, choice: Choice, before: str) -> dict[str, Any]:
        logprobs = self._logprobs(choice.tokens, choice.likely) if choice.params.top_logprobs is not None else None
        about = {"index": number, "finish_reason": choice.end, "logprobs": logprobs}
        if not self.chat:
            return {**about, "text": before + choice.text}
        calls = choice.tool_calls()
        message: dict[str, Any] = {"role": "assistant", "content": choice.content()}
        if calls:
            message |= {"content": message["content"] or None, "tool_calls": self._numbered(number, calls)}
        return {**about, "message": message}

    def _numbered(self, number: int, calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"id": f"call_{self.id[-12:]}_{number}_{rank}", **call} for rank, call in enumerate(calls)]

    def _logprobs(self, tokens: Sequence[int], likely: Sequence[Likely], start: int = 0) -> dict[str, Any]:
        piece = self._prompts.piece
        if self.chat:
            return {"content": [self._entry(*pair) for pair in zip(tokens, likely, strict=True)], "refusal": None}
        offsets = [start]
        for token in tokens:
            offsets.append(offsets[-1] + len(piece(token)))
        return {
            "tokens": [piece(token) for token in tokens],
            "token_logprobs": [each.logprob for each in likely],
            "top_logprobs": [
                {piece(token): logprob for token, logprob in ((own, each.logprob), *each.top)}
                for own, each in zip(tokens, likely, strict=True)
            ],
            "text_offset": offsets[:-1],
        }

    def _entry(self, token: int, likely: Likely) -> dict[str, Any]:
        def told(token: int, logprob: float) -> dict[str, Any]:
            return {
                "token": self._prompts.piece(token),
                "logprob": logprob,
                "bytes": self._prompts.piece_bytes(token),
            }

        return {**told(token, likely.logprob), "top_logprobs": [told(*pair) for pair in likely.top]}

    def begin(self, choices: Sequence[Choice], before: Sequence[str], more: dict[str, Any]) -> list[str]:
        """The chunks before the first token."""
        if self.chat:
            delta = {"role": "assistant", "content": ""}
            return [self._chunk(number, {"delta": delta}, None, None, more) for number in range(len(choices))]
        return [self._chunk(number, {"text": text}, None, None, more) for number, text in enumerate(before) if text]

    def news(self, number: int, choice: Choice, new: str, drawn: News, more: dict[str, Any]) -> list[str]:
        """The chunks of what was drawn in a step."""
        logprobs = None
        if choice.params.top_logprobs is not None and drawn.tokens:
            logprobs = self._logprobs(drawn.tokens, drawn.likely, choice.offset)
        found = []
        if new or logprobs:
            found.append(
                self._chunk(number, {"delta": {"content": new}} if self.chat else {"text": new}, logprobs, None, more)
            )
        if choice.end is not None:
            calls = self._numbered(number, choice.tool_calls())
            delta = {"tool_calls": [{"index": rank, **call} for rank, call in enumerate(calls)]} if calls else {}
            found.append(self._chunk(number, {"delta": delta} if self.chat else {"text": ""}, None, choice.end, more))
        return found

    def _chunk(self, number: int, said: dict[str, Any], logprobs: Any, end: str | None, more: dict[str, Any]) -> str:
        choice = {"index": number, **said, "logprobs": logprobs, "finish_reason": end}
        return event({**self._head("chat.completion.chunk"), "choices": [choice], **more})

    def last(self, usage: dict[str, Any]) -> str:
        """The chunk that tells the tokens."""
        return event({**self._head("chat.completion.chunk"), "choices": [], "usage": usage})


def event(value: Any) -> str:
    """A value as an event of a stream (HTML standard, 9.2)."""
    return f"data: {to_json(value)}\n\n"


DONE = "data: [DONE]\n\n"


def usage(prompts: Sequence[Sequence[int]], drawn: int) -> dict[str, Any]:
    """Tokens that were read and drawn."""
    read = sum(map(len, prompts))
    return {"prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn}
