"""A compare's folder asked for more: what may grow, and the record of what was asked when.

More seeds, methods, listed learning rates and held-out examples may be asked of a folder; the tolerance may change,
since it only changes the judging. Any other difference is refused (`runs.lock`). `prune` may not change: the trials
that it stopped, or did not, would not be those of the other value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from lowregret.errors import RecordsError, SpecError
from lowregret.runs.atomic import remove_file, write_json
from lowregret.runs.files import SPEC, VERDICT
from lowregret.runs.lock import RESTORE, bind_spec, require_same, stored_spec
from lowregret.runs.spelling import is_older, respelled
from lowregret.spec import CompareSpec, TrainingSpec, build
from lowregret.version import __version__

EXTENDED = "extended"
_FREE = ("tolerance", "tolerance_of")
_DEFAULTS_CHANGED = ("evals", "tolerance", "tolerance_of")
S = TypeVar("S", bound=TrainingSpec)
_GROWS = "can only grow in a folder"
_REMARKS = {
    "seeds": f"seeds {_GROWS}",
    "methods": f"methods {_GROWS}: name those of the folder too",
    "learning_rates": "a list of learning rates can only be made longer in a folder, and a search and a list cannot "
    "follow each other",
    "max_eval": f"held-out examples {_GROWS}, by a number; with rewards they stay as they are",
}


def known_choices(folder: Path) -> dict[str, Any] | None:
    """What a run of this folder has resolved before; None for a folder without a readable spec.json, or with one that
    does not say which held-out examples judge it.

    Whatever is wrong with the file is told when the run is bound to it.
    """
    try:
        resolved = stored_spec(folder / SPEC).get("resolved") if (folder / SPEC).exists() else None
    except RecordsError:
        return None
    known = isinstance(resolved, dict) and None not in (resolved.get("test_examples"), resolved.get("test_data"))
    return resolved if known else None


def as_begun(folder: Path, spec: S, say: Callable[[str], None]) -> S:
    """The spec with the folder's own values of what was not asked for, where defaults have changed since 0.2.

    So the command that began a folder goes on with it. RecordsError for values that cannot be; whatever else is wrong
    with spec.json is told when the run is bound.
    """
    try:
        there = stored_spec(folder / SPEC)["spec"] if (folder / SPEC).exists() else {}
    except RecordsError:
        return spec
    open_fields = [name for name in _DEFAULTS_CHANGED if name in type(spec).model_fields.keys() - spec.model_fields_set]
    asked = {name: getattr(spec, name) for name in spec.model_fields_set}
    taken = {name: there[name] for name in open_fields if name in there}
    try:
        begun = build(type(spec), asked | taken, source=str(folder / SPEC))
    except SpecError as error:
        raise RecordsError(f"{error}\n{RESTORE}") from None
    kept = {name: value for name in taken if (value := getattr(begun, name)) != getattr(spec, name)}
    if kept:
        say(f"{folder} was begun with {', '.join(f'{name} {value}' for name, value in kept.items())}, and keeps that")
    return spec.model_copy(update=kept)


def extend_spec(
    folder: Path,
    spec: CompareSpec,
    resolved: Mapping[str, Any],
    command: str,
    first_test_data: Callable[[int], str],
) -> dict[str, float]:
    """Bind the folder to the spec, or extend what it is bound to; RecordsError when the spec is no extension.

    The new spec.json replaces the old one at once. It keeps the first command, and in `extended` what each later one
    has changed.

    Returns method → the prior that its search starts from: the folder's own where it has one, so that a search goes on
    from what was tried when the plan's rates have changed since.

    Args:
        resolved: what this run has resolved.
        first_test_data: the fingerprint of the first n held-out examples, to see that they are still those.
    """
    file = folder / SPEC
    before = known_choices(folder)
    if before is None:
        bind_spec(folder, spec, dict(resolved), command)
        return dict(resolved.get("priors", {}))
    stored = stored_spec(file)
    older = is_older(stored.get("lowregret"))
    if older:
        before = respelled(before, spec.asked)
    there, here = stored["spec"], spec.model_dump(mode="json")
    kept = {name: value for name, value in before.items() if name in resolved}
    grown = _growth(there, here, before["test_examples"])
    now = dict(resolved)
    if "priors" in kept:
        now["priors"] = {**kept["priors"], **{n: p for n, p in now["priors"].items() if n not in kept["priors"]}}
        kept["priors"] = {name: now["priors"].get(name) for name in now["priors"]}
    if "data.max_eval" in grown:
        same = first_test_data(before["test_examples"]) == before["test_data"]
        kept |= {"test_examples": now["test_examples"], **({"test_data": now["test_data"]} if same else {})}
        if now["test_examples"] > before["test_examples"]:
            now["search_examples"] = before.get("search_examples", before["test_examples"])
    if "search_examples" in before:
        now["search_examples"] = before["search_examples"]
    taken = _with(there, here, grown)
    try:
        require_same(folder, {"spec": taken, "resolved": kept}, {"spec": here, "resolved": {n: now[n] for n in kept}})
    except RecordsError as error:
        said = [remark for name, remark in _REMARKS.items() if f" spec.{name}" in str(error)]
        said += [_REMARKS["max_eval"]] if " spec.data.max_eval: " in str(error) else []
        raise RecordsError("\n".join([str(error), *(f"({remark}.)" for remark in said)])) from None
    if older:
        remove_file(folder / VERDICT)  # it has the old names, and is judged again
    changed = {field: [_at(there, field), _at(here, field)] for field in grown}
    priors: dict[str, float] = dict(now.get("priors", {}))
    if not changed and not older:
        return priors
    entry = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "lowregret": __version__, "command": command}
    history = [*(stored.get(EXTENDED) or ()), {**entry, "changed": changed}]
    today = {**stored, "lowregret": __version__, "spec": taken, "resolved": {**before, **now}}
    write_json(file, {**today, EXTENDED: history} if changed else today)
    return priors


def _growth(there: Mapping[str, Any], here: Mapping[str, Any], judged_by: int) -> list[str]:
    """The fields that ask for more than there is, or that may change freely."""
    methods, rates = there.get("methods") or [], there.get("learning_rates")
    listed = isinstance(rates, list) and isinstance(here["learning_rates"], list)
    grows = {
        "seeds": isinstance(there.get("seeds"), int) and here["seeds"] > there["seeds"],
        "methods": here["methods"] != methods and all(method in here["methods"] for method in methods),
        "learning_rates": listed
        and here["learning_rates"] != rates
        and all(rate in here["learning_rates"] for rate in rates or ()),
    }
    found = [field for field, more in grows.items() if more]
    found += [field for field in _FREE if here.get(field) != there.get(field)]
    asked, had = here["data"]["max_eval"], (there.get("data") or {}).get("max_eval")
    if here["objective"]["kind"] == "sft" and asked is not None and asked != had and asked >= (had or judged_by):
        found.append("data.max_eval")
    return found


def _with(there: Mapping[str, Any], here: Mapping[str, Any], fields: list[str]) -> dict[str, Any]:
    """The stored spec with these fields of the other."""
    found = dict(there)
    for field in fields:
        table, _, name = field.rpartition(".")
        if table:
            found[table] = {**(found.get(table) or {}), name: here[table][name]}
        else:
            found[name] = here[name]
    return found


def _at(spec: Mapping[str, Any], field: str) -> Any:
    table, _, name = field.rpartition(".")
    return ((spec.get(table) or {}) if table else spec).get(name)
