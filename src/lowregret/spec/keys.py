"""What the fields of a spec are for a user: key, flag, type, default, bounds, unit and meaning of each.

One definition, the pydantic field with its docstring, is read here for the command line, the documentation's tables and
the tests. Torch-free.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from lowregret.spec.base import Spec
from lowregret.spec.marks import CodeOnly, Flag, Unit
from lowregret.spec.method import FullFT, LoRA

Reads = Literal["switch", "int", "float", "text", "texts", "choice"]
"""What stands behind a flag: nothing, a number, a text, a text each time it is repeated, or one of a few words."""

_BY_FILE_ONLY = "for those who study the optimizer itself: a file keeps what was changed"
TOML_ONLY: Mapping[str, str] = MappingProxyType(
    {
        "data.split_seed": "trials share one held-out set; another split is a choice to keep in a file",
        "optimizer.beta1": _BY_FILE_ONLY,
        "optimizer.beta2": _BY_FILE_ONLY,
        "optimizer.eps": _BY_FILE_ONLY,
        "optimizer.decay_fraction": _BY_FILE_ONLY,
    }
)
"""Keys without a flag, and why."""
_PANELS = MappingProxyType({"data": "Data", "objective": "Reinforcement learning", "optimizer": "Optimizer"})
_SPELLED = ("method", "methods")
"""Tables that the command line spells as a text, such as lora:16."""


@dataclass(frozen=True)
class Key:
    """One field of a spec, or of a table in it."""

    path: str
    """As in a TOML file: `data.max_length`."""
    flag: str
    """The flag's name with underscores; "" for a key that only a file can give."""
    panel: str
    """Of the help; "" for the first."""
    reads: Reads
    choices: tuple[str, ...]
    """The words of a `choice`."""
    type: str
    default: str | None
    """None for a field that has no default, and so must be given."""
    bounds: str
    unit: str
    meaning: str
    """The whole docstring as one line."""
    only_with: str = ""
    """The kind of the table that the key is of, where there are others."""
    fills: bool = False
    """Whether the flag fills the LoRAs of `method` or `methods`."""

    @property
    def sentence(self) -> str:
        """The first of the meaning."""
        return re.split(r"(?<=\.)\s+(?=[A-Z`−])", self.meaning, maxsplit=1)[0]

    @property
    def option(self) -> str:
        """`--max-length`; "" without a flag."""
        return f"--{self.flag.replace('_', '-')}" if self.flag else ""


@cache
def keys(spec: type[Spec]) -> tuple[Key, ...]:
    """Of a spec, those of its tables, and what fills the LoRAs that it names."""
    return tuple(_walk(spec, "", ""))


def _walk(spec: type[Spec], prefix: str, panel: str) -> Iterator[Key]:
    for name, field in spec.model_fields.items():
        if _marks(spec, name, CodeOnly):
            continue
        path = f"{prefix}{name}"
        tables = [] if name in _SPELLED else _tables(field.annotation)
        if not tables:
            if name != "kind":
                yield _key(spec, name, field, path, panel)
            if name in _SPELLED and not any(mark.whole for mark in _marks(spec, name, Flag)):
                yield from _filling(path)
            continue
        if kinds := _kinds(tables):
            yield replace(
                _key(spec, name, field, f"{path}.kind", panel),
                flag=name,
                reads="choice",
                choices=kinds,
                type=" | ".join(kinds),
                default=str(getattr(field.default, "kind", "")),
            )
        seen = set()
        for table in tables:
            kind = _kind_of(table) if kinds else ""
            for key in _walk(table, f"{path}.", _PANELS.get(name, panel)):
                if key.path not in seen:
                    seen.add(key.path)
                    yield replace(key, only_with=kind)


def _filling(path: str) -> Iterator[Key]:
    for name, field in LoRA.model_fields.items():
        if any(mark.fills for mark in _marks(LoRA, name, Flag)):
            key = _key(LoRA, name, field, f"{path}.{name}", "")
            spelled: Reads = "text" if key.reads == "texts" else key.reads  # one text with + in it
            yield replace(key, reads=spelled, default=(key.default or "").replace(",", "+"), fills=True)


def _key(spec: type[Spec], name: str, field: FieldInfo, path: str, panel: str) -> Key:
    flags = _marks(spec, name, Flag)
    units = _marks(spec, name, Unit)
    reads, choices = _read(field)
    return Key(
        path=path,
        flag="" if path in TOML_ONLY else next((mark.name for mark in flags if mark.name), name),
        panel=next((mark.group for mark in flags if mark.group), panel),
        reads=next((mark.reads for mark in flags if mark.reads), reads),
        choices=choices,
        type=_type_words(field),
        default=None if field.is_required() else default_words(field.get_default(call_default_factory=True)),
        bounds=_bounds(field),
        unit=units[0].name if units else "",
        meaning=" ".join((_description(spec, name) or "").split()),
    )


def _marks(spec: type[Spec], name: str, kind: type[Any]) -> list[Any]:
    """Of a field, the nearest first: a spec that only changes a default keeps what its base says."""
    classes = [c for c in spec.__mro__ if issubclass(c, Spec) and name in c.model_fields]
    return [mark for c in classes for mark in c.model_fields[name].metadata if isinstance(mark, kind)]


def _description(spec: type[Spec], name: str) -> str | None:
    classes = (c for c in spec.__mro__ if issubclass(c, Spec) and name in c.model_fields)
    return next((text for c in classes if (text := c.model_fields[name].description)), None)


def _tables(annotation: Any) -> list[type[Spec]]:
    """The specs that an annotation is, or is a union of."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return [table for part in get_args(annotation) for table in _tables(part)]
    return []


def _kinds(tables: list[type[Spec]]) -> tuple[str, ...]:
    """What tells the tables of a union apart; none where there is nothing to choose."""
    if len(tables) < 2:
        return ()
    return tuple(_kind_of(table) for table in tables)


def _kind_of(table: type[Spec]) -> str:
    return str(get_args(table.model_fields["kind"].annotation)[0])


def _read(field: FieldInfo) -> tuple[Reads, tuple[str, ...]]:
    if any(isinstance(mark, BeforeValidator) for mark in field.metadata):
        return "text", ()  # the spec knows how it is spelled
    kinds = _alternatives(field.annotation)
    if len(kinds) == 1:
        (kind,) = kinds
        if get_origin(kind) is Literal:
            return "choice", tuple(str(word) for word in get_args(kind))
        if get_origin(kind) is tuple and get_args(kind)[0] is str:
            return "texts", ()
        found: dict[Any, Reads] = {bool: "switch", int: "int", float: "float"}
        return found.get(kind, "text"), ()
    return "text", ()


def _alternatives(annotation: Any) -> list[Any]:
    """The parts of a union but None, without what is written beside them."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _alternatives(part)]
    return [] if annotation is type(None) else [annotation]


def _type_words(field: FieldInfo) -> str:
    words = list(dict.fromkeys(_type_word(kind) for kind in _alternatives(field.annotation)))
    return " | ".join(words)


def _type_word(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " | ".join(f'"{word}"' if isinstance(word, str) else str(word) for word in get_args(kind))
    if get_origin(kind) is Annotated:
        return _type_word(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return " | ".join(dict.fromkeys(_type_word(part) for part in get_args(kind)))
    if get_origin(kind) is tuple:
        parts = [part for part in get_args(kind) if part is not ...]
        return f"list of {' and '.join(_type_word(part) for part in parts)}"
    if get_origin(kind) is dict:
        return "table"
    names = {str: "text", int: "integer", float: "number", bool: "true | false", type(None): "none"}
    if kind in names:
        return names[kind]
    if kind in (FullFT, LoRA):
        return "method"
    return _kind_of(kind) if "kind" in kind.model_fields else "table"


def default_words(value: Any) -> str:
    """A default as a user would write it; "" for nothing, which the meaning explains."""
    if value is None or value == () or value == "":
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, tuple):
        return ",".join(default_words(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={default_words(item)}" for key, item in value.items())
    if isinstance(value, Spec):
        named = getattr(value, "name", None)
        return str(named) if named is not None else default_words(value.model_dump(exclude_unset=True))
    return str(value)


def _bounds(field: FieldInfo) -> str:
    limits = list(_limits(field.metadata, field.annotation))
    words = {
        Ge: "{} or more", Gt: "above {}", Le: "at most {}", Lt: "below {}",
    }  # fmt: skip
    found = [words[type(limit)].format(_written(_limit(limit))) for limit in limits if type(limit) in words]
    return ", ".join(dict.fromkeys(found))


def _written(limit: float) -> str:
    return f"{limit:,.0f}" if limit.is_integer() and abs(limit) >= 1e4 else f"{limit:g}"


def _limit(limit: Any) -> float:
    return float(next(getattr(limit, name) for name in ("ge", "gt", "le", "lt") if hasattr(limit, name)))


def _limits(metadata: Any, annotation: Any) -> Iterator[Any]:
    """Those of the field, then of the alternatives and items of its type."""
    for mark in metadata:
        if isinstance(mark, FieldInfo):
            yield from _limits(mark.metadata, None)
        else:
            yield mark
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        yield from _limits(marks, inner)
    elif get_origin(annotation) in (Union, UnionType, tuple):
        for part in get_args(annotation):
            yield from _limits((), part)
