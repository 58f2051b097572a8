"""How tests type a command."""

from __future__ import annotations

from collections.abc import Sequence


def typed(arguments: Sequence[object]) -> list[str]:
    """The words of a command. Replies, seconds of every run, are made where the test asks for them (`--replies`)."""
    words = [str(argument) for argument in arguments]
    replies = words[0] not in ("train", "compare") or "--replies" in words or "--help" in words
    return words if replies else [*words, "--replies", "0"]
