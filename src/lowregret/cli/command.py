"""What makes a function a verb's command."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TypeVar

from lowregret.cli.verbs import VERBS

F = TypeVar("F", bound=Callable[..., None])


def verb(name: str, flags: Sequence[inspect.Parameter] = ()) -> Callable[[F], F]:
    """Gives a verb's function its help and the flags of its spec, which arrive as **keywords where they are given.

    The docstring of the function is what the help says after the summary of the registry.
    """

    def decorate(function: F) -> F:
        entry = VERBS[name]
        again = "The same command goes on where it was stopped." if entry.resumable else ""
        paragraphs = [entry.summary, *(inspect.getdoc(function) or "").split("\n\n"), again]
        function.__doc__ = "\n\n".join(" ".join(text.split()) for text in paragraphs if text)
        own = inspect.signature(function, eval_str=True)
        kept = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        stand_alone = [p for p in kept if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)]
        made = [*stand_alone, *flags, *(p for p in kept if p not in stand_alone)]
        function.__signature__ = inspect.Signature(made)  # type: ignore[attr-defined]
        function.__annotations__ = {parameter.name: parameter.annotation for parameter in made}
        return function

    return decorate
