"""The common ground of all specs: frozen, strict about unknown keys, and with errors a user can act on."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from lowregret.errors import SpecError, did_you_mean


class Spec(BaseModel):
    """A frozen description of something the user asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


S = TypeVar("S", bound=Spec)


def build(kind: type[S], values: dict[str, Any], *, source: str = "") -> S:
    """Validate `values` into a `kind`; a SpecError names the field, and the source when it is a file."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        place = f"{source}: " if source else ""
        raise SpecError("\n".join(place + _explain(kind, problem) for problem in error.errors())) from None


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file; SpecError names the file and, for bad syntax, the line."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read ({error}). Name an existing TOML file.") from None
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path}: not valid TOML: {error}.") from None


def _explain(kind: type[BaseModel], problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    field = ".".join(location) or "(whole spec)"
    if problem["type"] == "extra_forbidden":
        fields = _fields_at(kind, location[:-1])
        return f"unknown key {field!r}. {did_you_mean(location[-1], fields)}"
    if problem["type"] == "missing":
        return f"{field!r} is missing; give it a value."
    message = problem["msg"].removeprefix("Value error, ")
    shown = repr(problem["input"])
    return f"{field}: {message} (got {shown[:80]})."


def _fields_at(kind: type[BaseModel], location: list[str]) -> list[str]:
    for part in location:
        annotation = kind.model_fields[part].annotation if part in kind.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        kind = annotation
    return list(kind.model_fields)
