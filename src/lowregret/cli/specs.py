"""Flags and a TOML file → one spec: a flag that is given wins, and the defaults live in the specs alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lowregret.cli import objective as objectives
from lowregret.errors import SpecError
from lowregret.spec import SFT, Spec, build, read_toml
from lowregret.spec.keys import Key, keys
from lowregret.spec.method import parse_method
from lowregret.spec.recipes import find_recipe

S = TypeVar("S", bound=Spec)


def chosen_file(verb: str, config: Path | None, recipe: str | None) -> Path | None:
    """The TOML file that --config or --recipe names; SpecError for both."""
    if recipe is None:
        return config
    if config is not None:
        raise SpecError("--config and --recipe both name a file of the same keys. Choose one.")
    return find_recipe(recipe, verb).path


def make_spec(kind: type[S], config: Path | None, flags: Mapping[str, Any]) -> S:
    """The TOML file's keys under the given flags, validated; SpecError names the flag or the file's key at fault."""
    values: dict[str, Any] = read_toml(config) if config is not None else {}
    if isinstance(values.get("data"), str):
        values["data"] = {"train": values["data"]}
    for table in ("data", "optimizer"):
        if not isinstance(values.get(table, {}), dict):
            raise SpecError(
                f"{config}: {table} is {values[table]!r}, and must be a table: write [{table}] above its keys."
            )
    given = {name: value for name, value in flags.items() if value is not None}
    known = {key.flag: key for key in keys(kind) if key.flag}
    for name, value in given.items():
        _set(values, name, value, known.get(name))
    for one, other in (("epochs", "steps"), ("steps", "epochs")):
        if one in given and other not in given:  # the flag replaces the file's choice of the other
            values.pop(other, None)
    objective = objectives.objective(values.get("objective"), given)
    if objective is not None:
        values["objective"] = objective
    _require(values, config)
    defaults = {name: value for name, value in given.items() if name in known and known[name].fills}
    if defaults:
        if "method" in kind.model_fields:
            values.setdefault("method", "lora:16")
        _fill_methods(values, defaults)
    spec = build(kind, values, source=str(config) if config is not None else "")
    for name in ("epochs", "tolerance", "prune", "evals"):  # where the spec gives one, pydantic takes it for the user's
        if name not in values:
            spec.model_fields_set.discard(name)
    return spec


def _set(values: dict[str, Any], flag: str, value: Any, key: Key | None) -> None:
    """Puts a flag's value where its key is; what is no key is judged by the spec, by the flag's name."""
    path = key.path if key is not None else flag
    if (key is not None and key.fills) or path.startswith("objective."):
        return  # the methods and the objective are made of several flags together
    table, _, name = path.rpartition(".")
    (values.setdefault(table, {}) if table else values)[name] = value


def _require(values: Mapping[str, Any], config: Path | None) -> None:
    missing = [] if values.get("model") else ["--model"]
    if not values.get("data", {}).get("train") and not objectives.brings_problems(values.get("objective")):
        missing.append("--data")
    if missing:
        where = f", or `model` and `data.train` in {config}" if config else ", or a TOML file with --config"
        raise SpecError(f"missing {' and '.join(missing)}{where}. To try it: `--model tiny --data builtin:arithmetic`.")


def _fill_methods(values: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """--targets, --alpha and --dropout reach every LoRA that does not say otherwise; SpecError when there is none."""
    unused = set(defaults)

    def filled(method: Any) -> Any:
        try:
            fields = parse_method(method)
        except ValueError:
            unused.clear()
            return method  # judged, with its field's name, by the spec
        if not isinstance(fields, dict) or fields.get("kind") != "lora":
            return method
        unused.difference_update(defaults.keys() - fields.keys())
        return {**defaults, **fields}

    if "method" in values:
        values["method"] = filled(values["method"])
    elif isinstance(methods := values.get("methods", ("lora:16", "full")), list | tuple):
        values["methods"] = [filled(method) for method in methods]
    else:
        return  # no list: judged by the spec as well
    if unused:
        name = sorted(unused)[0]
        raise SpecError(f"--{name} is of no use here: no method is a LoRA that leaves its {name} open. Leave it out.")


_TELLING = (
    "methods", "method", "learning_rates", "learning_rate", "batch_size", "epochs", "steps", "seeds", "ranks",
    "tolerance", "prune", "data.max_length", "objective.group_size", "objective.max_tokens",
)  # fmt: skip
"""The defaults that decide most of what a run finds and takes."""


def filled_in(spec: Spec) -> str:
    """The defaults that the user did not give, as one short line: the most telling ones, and how to see all."""
    unset = dict(_unset(spec))
    other_length = [name for name in ("epochs", "steps") if unset.get(name) == "none"]
    told = [f"{name} {unset[name]}" for name in _TELLING if name in unset and name not in other_length]
    more = len(unset) - len(told)
    others = f"{'; ' * bool(told)}{more} more: --show-config" if more else ""
    return f"filled in: {', '.join(told)}{others}" if unset else ""


def _unset(spec: Spec, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name in type(spec).model_fields:
        value = getattr(spec, name)
        if isinstance(value, Spec) and not (name == "method" or isinstance(value, SFT)):  # those have a name
            yield from _unset(value, f"{prefix}{name}.")
        elif name not in spec.model_fields_set and (name != "kind" or prefix == "objective."):
            yield f"{prefix}{name}", _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(_plain(item) for item in value) or "none"
    return "none" if value is None else str(getattr(value, "name", value))
