"""How tests type a command."""

from __future__ import annotations

from collections.abc import Sequence


def typed(arguments: Sequence[object]) -> list[str]:
    """The words of a command. Replies, seconds of every run, are made where the test asks for them (`--replies`)."""
    words = [str(argument) for argument in arguments]
    if words[:1] not in (["train"], ["compare"]) or "--replies" in words or "--help" in words:
        return words
    return [words[0], "--replies", "0", *words[1:]]
