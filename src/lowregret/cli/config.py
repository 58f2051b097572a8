"""What a command would run, as a TOML file that `--config` takes: what was given, and every default as a comment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lowregret.cli.outcome import say, say_json
from lowregret.foreign_text import redacted, without_secrets
from lowregret.spec import SFT, FullFT, LoRA, Spec
from lowregret.strict_json import to_json


def show_config(specs: Mapping[str, Spec], as_json: bool) -> None:
    """Print them, by the folder that each would be run in where there are several."""
    if as_json:
        found = [without_secrets(spec.model_dump(mode="json")) for spec in specs.values()]
        say_json(found if len(found) > 1 else found[0])
        return
    for folder, spec in specs.items():
        if len(specs) > 1:
            say(f"# {folder}")
        say(config_text(spec))


def config_text(spec: Spec) -> str:
    """The keys of a spec; those of its tables after its own."""
    return "\n".join(_lines(spec, ""))


def _lines(spec: Spec, table: str) -> Iterator[str]:
    tables = []
    for name in type(spec).model_fields:
        value = getattr(spec, name)
        given = name in spec.model_fields_set
        if isinstance(value, Spec) and not isinstance(value, FullFT | LoRA | SFT):
            tables.append((name, value))
            continue
        yield f"{'' if given else '# '}{name} = {_toml(value)}"
    for name, value in tables:
        path = f"{table}.{name}" if table else name
        used = any(key in value.model_fields_set for key in type(value).model_fields)
        yield ""
        yield f"{'' if used else '# '}[{path}]"
        yield from _lines(value, path)


def _toml(value: Any) -> str:
    if isinstance(value, FullFT | LoRA | SFT):
        return _toml(value.name)
    if value is None:
        return "none"
    if isinstance(value, str):
        return to_json(redacted(value))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{to_json(str(key))} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return to_json(value)
