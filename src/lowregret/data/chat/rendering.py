"""A row as one text, with the places in it that are supervised. No tokens yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lowregret.data.chat.template import ChatFormat
from lowregret.data.sources import Row
from lowregret.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""[begin, end) in characters."""

_THINK_END = "</think>"


@dataclass(frozen=True)
class Rendering:
    """The text of an example and what of it is supervised."""

    text: str
    spans: tuple[Span, ...] | None
    """Contents of the supervised turns, in order; None when everything is supervised."""
    wants_bos: bool
    """Whether BOS goes in front unless the text begins with it."""


def render(row: Row, tokenizer: PreTrainedTokenizerBase, form: ChatFormat) -> Rendering:
    """The text of a row and the spans to supervise.

    Raises DataError (without a place) when the template refuses the row or an assistant turn cannot be found in it.
    """
    if row.messages is None:
        return Rendering(row.text or "", None, wants_bos=form.adds_bos)
    messages = list(row.messages)
    wanted = [rank for rank, turn in enumerate(messages) if turn["role"] == "assistant" and rank >= row.prompt_turns]
    if form.template is None:
        return _join(messages, wanted, form)
    if form.marks_generation:
        return _render_marked(messages, wanted, tokenizer, form)
    text = _apply(messages, tokenizer, form)
    spans = []
    for rank in wanted:
        span = _locate(text, messages, rank, tokenizer, form)
        if span is not None:
            spans.append(span)
        elif messages[rank]["content"].strip():
            raise DataError(
                f"messages[{rank}]: cannot be found in what the chat template makes of this row. "
                "Use a template that writes the content of assistant turns as it is, or marks it with {% generation %}."
            )
    return Rendering(text, tuple(spans), wants_bos=False)


def _apply(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, form: ChatFormat, **options: Any) -> Any:
    arguments = {"tokenize": False, "chat_template": form.template, **options}
    try:
        return tokenizer.apply_chat_template(messages, **arguments)
    # A template is a program by somebody else: it refuses rows by raising whatever it likes.
    except Exception as error:
        raise DataError(f"the chat template refuses this row: {error}.") from None


def _locate(
    text: str, messages: list[dict[str, str]], rank: int, tokenizer: PreTrainedTokenizerBase, form: ChatFormat
) -> Span | None:
    """Where the template put the content of turn `rank` in `text`, found by rendering with that content replaced."""
    stand_in = _unused("lowregret", text)
    if _THINK_END in messages[rank]["content"]:
        # Qwen3's template rewrites a turn that thinks, or drops the thought if the turn is not the last.
        thought = _unused("thought", text)
        probe = _apply(_with(messages, rank, f"<think>\n{thought}\n{_THINK_END}\n\n{stand_in}"), tokenizer, form)
        if thought in probe:
            begin = probe.rfind("<think>", 0, probe.index(thought))
            span = _between(text, probe, begin if begin >= 0 else probe.index(thought), probe.find(stand_in), stand_in)
        else:
            span = _between(text, probe, probe.find(stand_in), probe.find(stand_in), stand_in)
        if span is not None:
            return span
    probe = _apply(_with(messages, rank, stand_in), tokenizer, form)
    return _between(text, probe, probe.find(stand_in), probe.find(stand_in), stand_in)


def _between(text: str, probe: str, begin: int, place: int, stand_in: str) -> Span | None:
    """The part of `text` between what comes before `begin` and after the stand-in at `place` in the probe."""
    if place < 0:
        return None
    before, after = probe[:begin], probe[place + len(stand_in) :]
    end = len(text) - len(after)
    if begin > end or not text.startswith(before) or not text.endswith(after):
        return None
    return begin, end


def _with(messages: list[dict[str, str]], rank: int, content: str) -> list[dict[str, str]]:
    return [*messages[:rank], {**messages[rank], "content": content}, *messages[rank + 1 :]]


def _unused(stem: str, text: str) -> str:
    """A word that does not occur in `text`."""
    number = 0
    while f"{stem}{number}q" in text:
        number += 1
    return f"{stem}{number}q"


def _render_marked(
    messages: list[dict[str, str]], wanted: list[int], tokenizer: PreTrainedTokenizerBase, form: ChatFormat
) -> Rendering:
    """By a template's own {% generation %} blocks, one for each assistant turn."""
    text = _apply(messages, tokenizer, form)
    marked = _apply(
        messages,
        tokenizer,
        form,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"return_offsets_mapping": True, "verbose": False},
    )
    spans: list[Span] = []
    inside = False
    for chosen, (begin, end) in zip(marked["assistant_masks"], marked["offset_mapping"], strict=True):
        if chosen and inside:
            spans[-1] = (spans[-1][0], end)
        elif chosen:
            spans.append((begin, end))
        inside = bool(chosen)
    turns = [rank for rank, turn in enumerate(messages) if turn["role"] == "assistant"]
    if turns != wanted:
        if len(spans) != len(turns):
            raise DataError(
                f"the chat template marks {len(spans)} stretches as generated in a row of {len(turns)} assistant "
                "turns, so those of the prompt cannot be told from the others."
            )
        spans = [span for span, rank in zip(spans, turns, strict=True) if rank in wanted]
    return Rendering(text, tuple(spans), wants_bos=False)


def _join(messages: list[dict[str, str]], wanted: list[int], form: ChatFormat) -> Rendering:
    """Without a template: contents joined by blank lines, EOS after each assistant turn."""
    text = ""
    spans = []
    for rank, turn in enumerate(messages):
        text += "\n\n" if rank else ""
        begin = len(text)
        text += turn["content"]
        if rank in wanted:
            spans.append((begin, len(text)))
        if turn["role"] == "assistant":
            text += form.eos_token
    return Rendering(text, tuple(spans), wants_bos=form.adds_bos)
