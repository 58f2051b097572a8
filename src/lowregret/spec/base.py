"""The common ground of all specs: frozen, strict about unknown keys, and with errors a user can act on."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from lowregret import limits
from lowregret.errors import SpecError, did_you_mean
from lowregret.foreign import read_text, reason


class Frozen(BaseModel):
    """What keeps its values, and takes no unknown key: a spec, or a record of a run (`runs.record`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Spec(Frozen):
    """A description of something the user asks for: its lists have an end."""

    @model_validator(mode="after")
    def _short_lists(self) -> Self:
        for name, value in self:
            if isinstance(value, tuple | list | dict) and len(value) > limits.LISTED:
                raise ValueError(f"{name}: {len(value):,} are listed, at most {limits.LISTED:,} may be")
        return self


S = TypeVar("S", bound=Frozen)


def build(kind: type[S], values: dict[str, Any], *, source: str = "") -> S:
    """Validate `values` into a `kind`; a SpecError names the field, and the source when it is a file."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        place = f"{source}: " if source else ""
        raise SpecError("\n".join(place + line for line in _explain_all(kind, error.errors()))) from None


def explained(error: ValidationError) -> str:
    """What pydantic found wrong, as `build` says it."""
    return "\n".join(_explain_all(Spec, error.errors()))


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file; SpecError names the file and, for bad syntax, the line."""
    remedy = "Name an existing TOML file."
    try:
        text = read_text(path, SpecError, remedy, limits.TOML_BYTES)
    except FileNotFoundError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}). {remedy}") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path}: not valid TOML: {reason(error)}.") from None


def _explain_all(kind: type[BaseModel], problems: Sequence[Any]) -> list[str]:
    """One line a field: what each of the alternatives of a union says about the same value is joined."""
    lines: dict[str, tuple[str, str]] = {}
    inside = {problem["loc"][:-1] for problem in problems}
    for problem in problems:
        if problem["type"] == "too_short" and problem["loc"] in inside:
            continue  # for want of the items that are wrong
        # pydantic names the alternatives of a union too, such as `constrained-float` or `literal['auto']`.
        location = [str(part) for part in problem["loc"] if not re.search(r"[\[-]", str(part))]
        field = ".".join(location)
        message, value = _explain(kind, problem, location)
        before = lines.get(field)
        lines[field] = (f"{before[0]}, or: {message}" if before else message, value)
    return [f"{field}: {message}{value}." if field and value else message for field, (message, value) in lines.items()]


def _explain(kind: type[BaseModel], problem: Any, location: list[str]) -> tuple[str, str]:
    """What is wrong, and the value in question: "" when the message says it all."""
    field = ".".join(location)
    if problem["type"] == "extra_forbidden":
        fields = _fields_at(kind, location[:-1])
        return f"unknown key {field!r}. {did_you_mean(location[-1], fields)}", ""
    if problem["type"] == "missing":
        return f"{field!r} is missing; give it a value.", ""
    message = (
        problem["msg"]
        .removeprefix("Value error, ")
        .removeprefix("Input ")
        .rstrip(".")
        .replace("a valid tuple", "a list")
    )
    if problem["type"] == "value_error" and isinstance(problem["input"], dict):
        return (f"{field}: " if field else "") + f"{message}.", ""
    return message, f" (got {problem['input']!r:.80})"


def _fields_at(kind: type[BaseModel], location: list[str]) -> list[str]:
    """Of the table at a place; behind a union's place stands which kind it is, behind a list's the item's number."""
    kinds = [kind]
    for part in location:
        inside = [found for each in kinds if part in each.model_fields for found in _tables(each, part)]
        told = [each for each in kinds if "kind" in each.model_fields and each.model_fields["kind"].default == part]
        kinds = inside or told or (kinds if part.isdecimal() else [])
    return list(dict.fromkeys(name for each in kinds for name in each.model_fields))


def _tables(kind: type[BaseModel], field: str) -> list[type[BaseModel]]:
    """What a field's value may be a table of."""
    left: list[Any] = [kind.model_fields[field].annotation]
    found: list[type[BaseModel]] = []
    while left:
        one = left.pop(0)
        left += get_args(one)
        if isinstance(one, type) and issubclass(one, BaseModel):
            found.append(one)
    return found
