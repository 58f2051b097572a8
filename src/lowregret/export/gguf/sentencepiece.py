"""SentencePiece's vocabularies out of tokenizer.json: the scores by which llama.cpp merges their pieces.

SentencePiece's BPE joins the two neighbours whose joint piece has the highest score, whichever they are; its scores are
0, -1, -2, … in the order in which the pieces were found (Kudo and Richardson 2018, arXiv:1808.06226). tokenizer.json
has the pairs in that order instead, so the rank of a piece's first pair gives its score back, if every way to put the
piece together is a pair and they stand together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lowregret.errors import ModelError

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_FIRST = (
    "a blank is put before the first word of a text, and llama.cpp would put one after every special token, too: the "
    "file has it put none, so that chats are read as they were trained on; a plain text must begin with a blank"
)


@dataclass(frozen=True)
class Pieces:
    """What llama.cpp needs beside the tokens themselves."""

    scores: Mapping[int, float]
    """Of pieces that are put together of others; the rest have none."""
    bytes: frozenset[int]
    """Tokens that stand for a byte."""
    space_prefix: bool
    """Whether a blank is put before a text, and after each special token."""
    notes: tuple[str, ...] = ()


def read_pieces(content: Mapping[str, Any], place: str) -> Pieces:
    """Of a tokenizer.json whose model has `byte_fallback`; ModelError when it is not SentencePiece's BPE."""
    model = content["model"]
    vocabulary: dict[str, int] = model["vocab"]
    if model.get("type") != "BPE":
        raise _other(place, f"the model {model.get('type')}")
    prefix, notes = _prefix(content, place)
    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    scores: dict[int, float] = {}
    last = None
    for rank, (left, right) in enumerate(pairs):
        number = vocabulary[left + right]
        if number != last and number in scores:
            raise _other(place, f"the merges of {left + right!r} apart from each other")
        scores.setdefault(number, -float(rank))
        last = number
    _check_complete(vocabulary, scores, set(pairs), place)
    bytes = frozenset(number for text, number in vocabulary.items() if _BYTE.fullmatch(text))
    if len(bytes) != 256:
        raise _other(place, f"{len(bytes)} tokens for bytes, not 256")
    return Pieces(scores, bytes, prefix, notes)


def _check_complete(vocabulary: Mapping[str, int], scores: Mapping[int, float], pairs: set[Any], place: str) -> None:
    for text, number in vocabulary.items():
        if number not in scores:
            continue
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in vocabulary and right in vocabulary and (left, right) not in pairs:
                raise _other(place, f"no merge of {left!r} and {right!r}")


def _prefix(content: Mapping[str, Any], place: str) -> tuple[bool, tuple[str, ...]]:
    """Whether a blank goes before a text; ModelError for what else a tokenizer does to it first."""
    prefix, replaced = False, False
    notes: tuple[str, ...] = ()
    for part in _parts(content.get("normalizer"), "normalizers"):
        if part == {"type": "Prepend", "prepend": "▁"}:
            prefix = True
        elif part.get("type") == "Replace" and part.get("content") == "▁" and part.get("pattern") == {"String": " "}:
            replaced = True
        else:
            raise _other(place, f"the normalizer {part!s:.100}")
    for part in _parts(content.get("pre_tokenizer"), "pretokenizers"):
        if part.get("type") == "Metaspace" and part.get("replacement") == "▁" and not part.get("split", True):
            scheme = part.get("prepend_scheme", "always")
            prefix, replaced = scheme == "always", True
            notes = (_FIRST,) if scheme == "first" else ()
        elif part.get("type") != "Split" or part.get("pattern") != {"String": " "} or not replaced:
            raise _other(place, f"the pre-tokenizer {part!s:.100}")  # the other finds no blank: all are replaced
    if not replaced:
        raise _other(place, "blanks as they are")
    return prefix, notes


def _parts(node: Any, key: str) -> list[Mapping[str, Any]]:
    if node is None:
        return []
    return list(node[key]) if node.get("type") == "Sequence" else [node]


def _other(place: str, what: str) -> ModelError:
    return ModelError(
        f"{place}: its tokenizer has bytes as SentencePiece has them, but {what}: llama.cpp would read other tokens. "
        "Serve the merged model with transformers or vLLM instead (lowregret merge)."
    )
