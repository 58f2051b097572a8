"""Writes docs/reference/: a page for every verb, with its options and keys, the JSON schemas of its files, the public
names of the package and the records of a run.

All of it comes from the verbs, the specs and the source themselves:

    python tools/reference.py

A test says when what is written there is stale.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Union, get_args

from cyclopts import Parameter
from pydantic import Field, TypeAdapter

if __name__ == "__main__":  # a file in tools/ is run by its path
    sys.path.insert(0, str(Path(__file__).parents[1]))

from tools import reference_records

from lowregret.cli import study
from lowregret.cli.flags import VerbFlags
from lowregret.cli.verbs import VERBS, Verb
from lowregret.questions.question import Question
from lowregret.questions.registry import QUESTIONS
from lowregret.runs.forecast import Forecast
from lowregret.runs.proof import Proof
from lowregret.runs.record import Record
from lowregret.runs.records import Metric, TrialRecord
from lowregret.runs.verdict import Verdict
from lowregret.spec import CompareSpec, Spec, TrainSpec
from lowregret.spec.keys import TOML_ONLY, Key, keys
from lowregret.spec.method import FullFT, LoRA, spellings
from lowregret.spec.recipes import recipes
from lowregret.strict_json import to_json

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
MADE = "<!-- Made by `python tools/reference.py` from the verbs and their specs: change those. -->\n"
RECORDS: dict[str, type[Record]] = {
    "trial": TrialRecord,
    "metrics": Metric,
    "verdict": Verdict,
    "forecast": Forecast,
    "proof": Proof,
}
"""Files of a run's folder, by name; of metrics.jsonl the schema is that of a line."""
_FROM_FLAGS = ("DataSpec", "RL")
"""Tables whose required keys may come from flags instead of the file."""


def files() -> dict[str, str]:
    """Every file of docs/reference, by its path below it."""
    return {
        "index.md": _index(),
        "method.md": _method(),
        "api.md": f"{MADE}\n{reference_records.api()}",
        "records.md": f"{MADE}\n{reference_records.records()}",
        **{f"{verb.name}.md": _page(verb) for verb in VERBS.values()},
        "schema/train.json": _schema(TrainSpec.model_json_schema(), "lowregret train"),
        "schema/compare.json": _schema(CompareSpec.model_json_schema(), "lowregret compare"),
        "schema/study.json": _schema(_any_question().json_schema(), "lowregret study"),
        **{f"schema/records/{name}.json": _dumped(kind.model_json_schema(), name) for name, kind in RECORDS.items()},
    }


_NO_FILE = "This verb reads no file: `key` is the name of the field in the spec.\n"
_COMMON = (
    "Keys of a TOML file for `--config`, and the flags that win over it. A key without a flag is for files only. "
    "When a command starts, it prints the most telling defaults that were filled in; `--show-config` prints all.\n"
)


def _index() -> str:
    verbs = "\n".join(f"    - [{verb.name}]({verb.name}.md): {_cell(verb.summary)}" for verb in VERBS.values())
    return f"""{MADE}
# Reference

Keys, flags, types, defaults, bounds and units. Everything here is made from the verbs and their specs, which also
make the flags, their help and the checks, so it cannot differ from them.

- the verbs, with all their options:
{verbs}
- [method](method.md): how a LoRA is spelled, and its fields
- [Python API](api.md): the package's public names
- [records](records.md): the JSON files of a run's folder, field by field
- [schema/records/](schema/records): JSON schemas of records
- [schema/](schema): JSON schemas of the TOML files. An editor that knows them (Even Better TOML, taplo) completes and
  checks keys after a first line `#:schema docs/reference/schema/compare.json`.

`lowregret --help` (or `-h`) lists the verbs, `lowregret VERB --help` the flags of one, with their defaults and bounds.
Every verb that ends in a result takes `--json`: the result alone on standard output, all else on standard error.

## Completion with Tab

    lowregret --install-completion

writes a script for the shell in use (bash, zsh, fish or PowerShell; `--shell` names another) and loads it from the
shell's start-up file. After an update that changed flags, run it again.
"""


def _page(verb: Verb) -> str:
    """What a verb does, its own options, and the keys of its spec, or what else it is about."""
    module = importlib.import_module(verb.module)
    command = getattr(module, verb.import_path.partition(":")[2])
    asks: VerbFlags | None = getattr(module, "ASKS", None)
    parts = [f"{MADE}\n# lowregret {verb.name}", inspect.getdoc(command) or "", _own_options(command, asks)]
    if verb.name in _MORE:
        parts.append(_MORE[verb.name]())
    elif asks is not None:
        parts.append(_of_spec(command, asks))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _of_spec(command: Any, asks: VerbFlags) -> str:
    """The tables of a verb's spec; without the keys that only a file can give, where there is no --config."""
    if "config" in inspect.signature(command).parameters:
        return f"## Keys and flags\n\n{_COMMON}\n{_below(_tables(_with_its_flags(asks, asks.spec)))}"
    told = [replace(key, meaning=asks.says.get(key.flag, key.meaning)) for key in asks.flags()]
    return f"## Flags of its spec\n\n{_NO_FILE}\n{_below(_tables(told))}"


def _below(tables: str) -> str:
    """Headings of tables, one level further down."""
    return tables.replace("## `[", "### `[")


def _own_options(command: Any, asks: VerbFlags | None) -> str:
    """Words that stand alone, and options of the verb that are in no spec."""
    of_spec = {key.flag for key in asks.flags()} if asks else set()
    own = [p for name, p in inspect.signature(command).parameters.items() if name not in of_spec]
    head = "## Its own options\n\n| option | type | meaning |\n|---|---|---|\n"
    return head + "".join(_own_row(parameter) for parameter in own)


def _own_row(parameter: inspect.Parameter) -> str:
    kind, told = get_args(parameter.annotation)[0], get_args(parameter.annotation)[-1]
    assert isinstance(told, Parameter)
    names = ", ".join(f"`{name}`" for name in told.name or (f"--{parameter.name.replace('_', '-')}",))
    if parameter.kind is parameter.VAR_POSITIONAL:
        names += " …"
    (word,) = (word for known, word in _TYPES.items() if known == kind or known in get_args(kind))
    must_be_there = told.required or (
        parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
    )
    meaning = f"{told.help} (required)" if must_be_there else str(told.help)
    return f"| {names} | {word} | {_cell(meaning)} |\n"


_TYPES = {Path: "path", bool: "switch", int: "integer", float: "number", str: "text", list[str]: "text, repeatable"}


def _with_its_flags(asks: VerbFlags, spec: type[Spec]) -> list[Key]:
    """The keys of a spec; those that the verb has no flag for are for files only."""
    flags = {key.path for key in asks.flags()}
    return [key if key.path in flags else replace(key, flag="") for key in keys(spec)]


def _summary(spec: type[Spec]) -> str:
    return " ".join((spec.__doc__ or "").split("\n\n")[0].split())


def _tables(known: Iterable[Key]) -> str:
    """A table for the keys of a file's top, and one for each of its tables."""
    sections: dict[str, list[Key]] = {}
    for key in known:
        table = "" if key.fills else key.path.rpartition(".")[0]
        if key.path == "objective.kind":  # stands with the others of its table
            table = "objective"
        sections.setdefault(table, []).append(key)
    parts = []
    for table, found in sorted(sections.items(), key=lambda section: section[0] != ""):
        parts.append(f"## `[{table}]`\n\n" if table else "")
        parts.append(_rows(found) + "\n")
    return "".join(parts).rstrip() + "\n"


def _rows(found: Iterable[Key]) -> str:
    head = "| key | flag | type | default | bounds | unit | meaning |\n|---|---|---|---|---|---|---|\n"
    return head + "".join(_row(key) for key in found)


def _row(key: Key) -> str:
    name = "" if key.fills else f"`{key.path.rpartition('.')[2]}`"
    flag = f"`{key.option}`" if key.option else ""
    default = "required" if key.default is None else key.default
    meaning = key.meaning
    if key.only_with:
        default = f"required with {key.only_with}" if key.default is None else default
    if key.path in TOML_ONLY:
        meaning += f" In files only: {TOML_ONLY[key.path]}."
    cells = (name, flag, key.type, default, key.bounds, key.unit, meaning)
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |\n"


def _cell(text: str) -> str:
    return text.replace("|", "or").replace("<", "&lt;").replace("\n", " ")


def _method() -> str:
    rows, of_full = (
        "".join(
            f"| `{name}` | {_cell(spelled)} | {_cell(kind.model_fields[name].description or '')} |\n"
            for name, spelled in spellings(kind).items()
        )
        for kind in (LoRA, FullFT)
    )
    return f"""{MADE}
# Methods

`full` is full fine-tuning: {_summary_of_full()} A LoRA is spelled `lora:RANK`, then any of the words and `name=value`
below, then its targets, all after colons: `lora:16`, `lora:16:alpha=16:dora:attention+mlp`. In a file a method may be
a table with `kind` and the fields, too.

{_summary(LoRA)}

| field | spelled | meaning |
|---|---|---|
{rows}
Full fine-tuning is spelled `full`, then any of these words: `full:bf16:in-backward`.

| field | spelled | meaning |
|---|---|---|
{of_full}"""


def _summary_of_full() -> str:
    return "every weight of the base trains."


def _study() -> str:
    common = _with_its_flags(study.ASKS, Question)
    parts = [
        "## Keys and flags\n\n",
        "A file names its question by `kind`; the other keys are those below, and those of the question. ",
        "A question's own defaults win over the common ones; `--ranks` sets the `ranks` of one that has them.\n\n",
        "### Common to all questions\n\n",
        _tables(common).replace("## `[", "#### `["),
    ]
    shared = {key.path: key for key in common}
    for kind, question in QUESTIONS.items():
        own = [key for key in _with_its_flags(study.ASKS, question) if "." not in key.path]
        parts.append(
            f"\n### {kind}\n\n{_summary(question)}\n\n{_rows(key for key in own if shared.get(key.path) != key)}"
        )
    return "".join(parts)


def _recipes() -> str:
    rows = "".join(
        f"| `{recipe.name}` | {_command(recipe.name, recipe.verb)} | {_cell(recipe.sentence)} |\n"
        for recipe in recipes().values()
    )
    return f"""## The recipes

Flags win over a recipe, as over any file.

| recipe | command | what it does |
|---|---|---|
{rows}"""


def _command(name: str, verb: str) -> str:
    return f"`lowregret study {name}`" if verb == "study" else f"`lowregret {verb} --recipe {name}`"


_MORE = {"study": _study, "recipes": _recipes}
"""What a verb's page has in the place of one table of keys."""


def _any_question() -> TypeAdapter[Any]:
    every: Any = Union[tuple(QUESTIONS.values())]  # noqa: UP007
    kinds: Any = Annotated[every, Field(discriminator="kind")]
    return TypeAdapter(kinds)


def _schema(schema: dict[str, Any], title: str) -> str:
    """As files are written: `data` may be a source alone, and what flags can give need not be there."""
    definitions = schema.get("$defs", {})
    for name in (None, *definitions):
        table = schema if name is None else definitions[name]
        if name is None or name in _FROM_FLAGS or name.endswith("Question"):
            table["required"] = [key for key in table.get("required", ()) if key == "kind"]
            if not table["required"]:
                del table["required"]
        data = table.get("properties", {}).get("data")
        if data is not None:
            table["properties"]["data"] = {"anyOf": [{"type": "string"}, data]}
    return _dumped(schema, title)


def _dumped(schema: dict[str, Any], title: str) -> str:
    made = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}
    return to_json(made, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all files."""
    for name, text in files().items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
