"""Which of llama.cpp's pre-tokenizers does what a tokenizer's own does, told by its content and never by its name.

A byte-level BPE cuts a text into words before it merges. tokenizer.json has the patterns; llama.cpp has them built in,
by name (src/llama-vocab.cpp, `llm_tokenizer_bpe`), with the flag that takes a word which is in the vocabulary whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lowregret.errors import ModelError

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_DIGIT = r"\p{N}"
_SUFFIXES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST_WITH_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_HUMPS = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_BUNDLED = r"\d| ?[A-Za-z]+| ?[^\sA-Za-z\d]+|\s+"

_KNOWN: Mapping[tuple[tuple[str, ...], bool], str] = {
    ((_GPT2,), False): "gpt-2",
    ((_DIGIT, _GPT2), False): "smollm",
    ((rf"{_SUFFIXES}|{_WORD}|\p{{N}}{{1,3}}|{_REST}",), True): "llama-bpe",
    ((rf"{_SUFFIXES}|{_WORD}|\p{{N}}{{1,3}}|{_REST}",), False): "smaug-bpe",
    ((rf"{_SUFFIXES}|{_WORD}|\p{{N}}|{_REST}",), False): "qwen2",
    ((rf"{_HUMPS[0]}|{_HUMPS[1]}|\p{{N}}|{_REST_WITH_SLASH}",), True): "tekken",
    ((rf"{_HUMPS[0]}{_SUFFIXES}?|{_HUMPS[1]}{_SUFFIXES}?|\p{{N}}{{1,3}}|{_REST_WITH_SLASH}",), False): "gpt-4o",
    ((_BUNDLED,), False): "smollm",
}
"""(the patterns in turn, whether merges are ignored for a word of the vocabulary) → llama.cpp's name."""

BLANKS = (
    "llama.cpp has no pre-tokenizer quite like this one: it reads runs of blanks before a word, and letters beyond A "
    "to Z beside others, as other tokens"
)
"""What to know of the bundled base."""


def pre_tokenizer(tokenizer: Mapping[str, Any], place: str) -> tuple[str, str | None]:
    """(llama.cpp's name, what to know of it or None) for a tokenizer.json with a byte-level BPE.

    ModelError when llama.cpp has none that does the same.
    """
    patterns = tuple(_patterns(tokenizer.get("pre_tokenizer"), place))
    whole = bool(tokenizer["model"].get("ignore_merges"))
    name = _KNOWN.get((tuple(map(_usual, patterns)), whole))
    if name is None:
        raise _unknown(place, " then ".join(repr(pattern) for pattern in patterns) or "nothing")
    return name, BLANKS if patterns == (_BUNDLED,) else None


def _patterns(node: Any, place: str) -> Sequence[str]:
    """What a tokenizer cuts by, in turn."""
    kind = node.get("type") if isinstance(node, Mapping) else None
    if kind == "Sequence":
        return [pattern for part in node["pretokenizers"] for pattern in _patterns(part, place)]
    if kind == "ByteLevel" and not node.get("add_prefix_space"):
        return [_GPT2] if node.get("use_regex", True) else []
    if kind == "Digits" and node.get("individual_digits"):
        return [_DIGIT]
    if kind == "Split" and "Regex" in node.get("pattern", {}):
        keeps = (node.get("behavior"), bool(node.get("invert")))
        if keeps in (("Isolated", False), ("Removed", True)):
            return [node["pattern"]["Regex"]]
    raise _unknown(place, f"{kind} ({node!s:.120})")


def _usual(pattern: str) -> str:
    """A pattern with its contractions spelled in one of the ways that mean the same."""
    spelled = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    return pattern.replace(spelled, _SUFFIXES)


def _unknown(place: str, what: str) -> ModelError:
    return ModelError(
        f"{place}: its tokenizer cuts text by {what}, which llama.cpp has no name for: it would read other tokens than "
        "the model was trained on. Serve the merged model with transformers or vLLM instead (lowregret merge)."
    )
