"""What every verb of the registry owes: help without torch, errors that say what is meant, JSON, flags of its spec."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from cyclopts import Parameter

from lowregret.cli import study
from lowregret.cli.flags import VerbFlags
from lowregret.cli.verbs import VERBS, Verb
from lowregret.questions.registry import QUESTIONS
from lowregret.spec.keys import TOML_ONLY, default_words, keys

FROZEN = Path(__file__).parents[1] / "unit" / "cli" / "flags.txt"
RENEW = "python tests/laws/test_verbs.py > tests/unit/cli/flags.txt"
HELP = """
import sys
from lowregret.cli.app import run

for flag in ("-h", "--help"):
    assert run([sys.argv[1], flag]) == 0
heavy = [name for name in ("torch", "transformers", "numpy", "datasets") if name in sys.modules]
assert not heavy, heavy
"""
EVERY = pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.name)


def command(verb: Verb) -> Any:
    """The function that a verb runs."""
    module, _, name = verb.import_path.partition(":")
    return getattr(importlib.import_module(module), name)


def asks(verb: Verb) -> VerbFlags | None:
    """What a verb asks of its spec; None for a verb that builds none."""
    found: VerbFlags | None = getattr(importlib.import_module(verb.module), "ASKS", None)
    return found


BUILDERS = [verb for verb in VERBS.values() if asks(verb) is not None]


def frozen() -> Iterator[str]:
    """Verb, flag and kind of every parameter, a line each."""
    for verb in VERBS.values():
        for parameter in inspect.signature(command(verb)).parameters.values():
            kind, told = get_args(parameter.annotation)[0], get_args(parameter.annotation)[-1]
            names = " ".join(told.name or (f"--{parameter.name.replace('_', '-')}",))
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
                names = f"({names})"
            word = str(getattr(kind, "__name__", kind)) if not get_args(kind) else str(kind).replace("typing.", "")
            yield f"{verb.name}\t{names}\t{word.replace('pathlib.', '').replace(' | None', '')}"


@EVERY
def test_help_is_there_both_ways_and_needs_no_torch(verb: Verb) -> None:
    done = subprocess.run([sys.executable, "-c", HELP, verb.name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"Usage: lowregret {verb.name}") == 2
    assert verb.summary.split()[0] in done.stdout
    assert ("The same command goes on where it was stopped" in done.stdout) == verb.resumable


@EVERY
def test_an_unknown_flag_is_named_and_the_nearest_suggested(run: Any, verb: Verb, tmp_path: Path) -> None:
    flag = "--jsno" if verb.ends_in_a_result else "--hlep"
    done = run(verb.name, flag)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert flag in done.stderr
    assert ("--json" if verb.ends_in_a_result else "--help") in done.stderr
    assert f"lowregret {verb.name} --help" in done.stderr


@EVERY
def test_a_verb_that_ends_in_a_result_prints_it_as_json(verb: Verb) -> None:
    told = [get_args(p.annotation)[-1] for p in inspect.signature(command(verb)).parameters.values()]
    assert ("--json" in {name for one in told for name in (one.name or ())}) == verb.ends_in_a_result


@pytest.mark.parametrize("verb", BUILDERS, ids=lambda verb: verb.name)
def test_every_field_of_a_verbs_spec_has_a_flag_or_a_reason(verb: Verb) -> None:
    asked = asks(verb)
    assert asked is not None
    known = keys(asked.spec)
    out = [name for names in asked.leaves_out.values() for name in names]
    assert [name for name in out if not any(f"{key.path}.".startswith(f"{name}.") for key in known)] == []
    reasons = {*TOML_ONLY, *out}
    flags = {key.path for key in asked.flags()}
    bare = [k.path for k in known if k.path not in flags and not any(f"{k.path}.".startswith(f"{r}.") for r in reasons)]
    assert bare == []
    assert {key.flag for key in asked.flags()} <= set(inspect.signature(command(verb)).parameters)


@pytest.mark.parametrize("verb", BUILDERS, ids=lambda verb: verb.name)
def test_every_flag_of_a_spec_says_what_it_means_and_what_holds_without_it(verb: Verb) -> None:
    asked = asks(verb)
    assert asked is not None
    for key in asked.flags():
        text = asked.help(key)
        assert len(asked.says.get(key.flag, key.sentence).split()) > 1, f"{key.path}: its field has no docstring"
        assert any(word in text for word in ("default: ", "when not given", "required")), (key.path, text)
        assert "`" not in text, (key.path, text)
        for bound in key.bounds.split(", "):
            assert bound in text


@EVERY
def test_every_option_of_a_verbs_own_is_told(verb: Verb) -> None:
    for parameter in inspect.signature(command(verb)).parameters.values():
        told = get_args(parameter.annotation)[-1]
        assert isinstance(told, Parameter)
        assert told.help
        assert parameter.default in (None, False, inspect.Parameter.empty), "defaults live in the specs"


def test_the_list_of_flags_is_frozen() -> None:
    """So that a new, lost or renamed flag is seen in review."""
    kept = FROZEN.read_text(encoding="utf-8").splitlines()
    assert list(frozen()) == kept, f"if that is meant: {RENEW}"


def test_a_default_that_differs_by_question_is_said_to_be_the_questions() -> None:
    asked = study.ASKS
    common = {key.path: key.default for key in keys(asked.spec)}
    for question in QUESTIONS.values():
        defaults = {key.path: key.default for key in keys(question)}
        data = question.model_fields["data"].default
        defaults |= {f"data.{name}": default_words(value) for name, value in data}
        differing = {key.flag for key in asked.flags() if (common[key.path] or "") != (defaults[key.path] or "")}
        assert differing <= set(asked.defaults), question


@pytest.mark.parametrize("verb", [VERBS["train"], VERBS["compare"], VERBS["plan"]], ids=lambda verb: verb.name)
def test_every_key_of_a_file_has_a_meaning(verb: Verb) -> None:
    asked = asks(verb)
    assert asked is not None
    assert [key.path for key in keys(asked.spec) if not key.meaning] == []


def test_what_is_left_to_files_is_a_key_of_some_spec() -> None:
    known = {key.path for verb in BUILDERS if (asked := asks(verb)) for key in keys(asked.spec)}
    assert set(TOML_ONLY) <= known


if __name__ == "__main__":
    print("\n".join(frozen()))
