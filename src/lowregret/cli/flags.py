"""The flags of a verb: those of the fields of the spec that it builds, and how cyclopts is told of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, Token

from lowregret.cli.options import OPTIONS
from lowregret.spec import Spec
from lowregret.spec.keys import Key, keys

_PANELS = ("Data", "Reinforcement learning", "Training", "Optimizer", "Machine")
_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class VerbFlags:
    """Which spec a verb builds, and the fields of it that the verb has flags for: all that are not left out."""

    spec: type[Spec]
    leaves_out: Mapping[str, Sequence[str]] = field(default_factory=lambda: _NONE)
    """Why → the keys, or tables of keys, that are no choice of this verb."""
    says: Mapping[str, str] = field(default_factory=lambda: _NONE)
    """Flag → its sentence, where it means something else than elsewhere."""
    defaults: Mapping[str, str] = field(default_factory=lambda: _NONE)
    """Flag → its default in words, where that depends on more than the spec."""

    def flags(self) -> tuple[Key, ...]:
        """Of the spec, those that the verb has a flag for."""
        out = [name for names in self.leaves_out.values() for name in names]
        return tuple(key for key in keys(self.spec) if key.flag and not any(_within(key.path, name) for name in out))

    def parameters(self) -> tuple[inspect.Parameter, ...]:
        """The flags as cyclopts takes them; their defaults mean "not given", since the spec has the real ones."""
        return tuple(_parameter(self, key) for key in self.flags())

    def help(self, key: Key) -> str:
        """Meaning, unit, bounds and default of a flag."""
        sentence = self.says.get(key.flag, key.sentence)
        default = self.defaults.get(key.flag, key.default)
        about = ", ".join(part for part in (*_choices(key), key.unit, key.bounds) if part)
        needed = f"required with {key.only_with}" if key.only_with else "required"
        given = needed if default is None else f"default: {default}" if default else ""
        notes = "; ".join(part for part in (about, given) if part)
        return _as_flags(sentence, keys(self.spec)) + (f" ({notes})" if notes else "")


def _within(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}.")


def _choices(key: Key) -> tuple[str, ...]:
    return (" or ".join(key.choices),) if key.choices else ()


def _as_flags(sentence: str, known: Sequence[Key]) -> str:
    """A sentence about keys as one about flags, which are what `--help` is read for."""
    options = {key.path.rpartition(".")[2]: key.option for key in known if key.option}
    return re.sub(r"`([^`]*)`", lambda found: options.get(found[1], found[1]), sentence)


def _parameter(asks: VerbFlags, key: Key) -> inspect.Parameter:
    kinds: dict[str, Any] = {"switch": bool, "int": int, "float": float, "text": str, "texts": list[str]}
    # Of a few words, any text is let through: the spec judges it, with the sentence that it has for a file's.
    kind = Literal[key.choices] | str if key.reads == "choice" else kinds[key.reads]
    told = Parameter(
        name=key.option,
        help=asks.help(key),
        group=_group(key.panel),
        converter=_CONVERTERS.get(key.reads),
        allow_leading_hyphen=key.reads != "switch",
        show_choices=False,
        metavar="CHOICE" if key.reads == "choice" else None,
    )
    return inspect.Parameter(
        key.flag,
        inspect.Parameter.KEYWORD_ONLY,
        default=False if kind is bool else None,
        annotation=Annotated[kind if kind is bool else kind | None, told],
    )


def _group(panel: str) -> Group:
    return Group(panel, sort_key=_PANELS.index(panel) + 1) if panel else OPTIONS


def _as_written(kind: Any, tokens: Sequence[Token]) -> str:
    """The word itself."""
    return tokens[0].value


def _whole_number(kind: Any, tokens: Sequence[Token]) -> int:
    """Strictly: 2.5 steps are a mistake, not 2."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is not a whole number") from None


_CONVERTERS = MappingProxyType({"choice": _as_written, "int": _whole_number})
