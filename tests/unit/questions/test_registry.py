"""The questions: their recipes, what --quick and flags change, and what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import lowregret.questions
from lowregret.errors import SpecError
from lowregret.questions.claim import Statement
from lowregret.questions.layers.spec import LayersQuestion
from lowregret.questions.registry import QUESTIONS, Asked, claims, make_question, statements
from lowregret.spec import FullFT, read_toml

CAPACITY = "builtin:biographies:size={size},test_size=100"
FOLDER = Path(lowregret.questions.__file__).parent
RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.mark.parametrize("kind", QUESTIONS)
def test_the_recipe_of_a_question_spells_its_defaults(kind: str) -> None:
    path = RECIPES / f"study_{kind.replace('-', '_')}.toml"
    assert make_question(read_toml(path)) == QUESTIONS[kind]()


def test_every_recipe_belongs_to_a_question() -> None:
    assert {path.stem for path in RECIPES.glob("study_*.toml")} == {f"study_{k.replace('-', '_')}" for k in QUESTIONS}


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("kind", QUESTIONS)
def test_groups_have_folders_of_their_own_and_start_from_earlier_ones(kind: str, quick: bool) -> None:
    question = make_question({"kind": kind}, quick=quick)
    groups = question.groups()
    assert len({group.key for group in groups}) == len(groups)
    seen: set[str] = set()
    for group in groups:
        assert group.start_from is None or group.start_from in seen
        assert len({isinstance(method, FullFT) for method in group.methods}) == 1, "FullFT is alone"
        seen.add(group.condition)
    assert Asked.model_validate(Asked(question=question).model_dump(mode="json")).question == question  # type: ignore[arg-type]


def test_flags_win_over_quick_and_quick_over_the_recipe() -> None:
    values = {"kind": "learning-rate", "steps": 999, "ranks": [2, 3]}
    assert make_question(values).steps == 999
    assert make_question(values, quick=True).steps == QUESTIONS["learning-rate"].QUICK["steps"]
    assert make_question(values, quick=True, flags={"steps": 7}).steps == 7


def test_other_data_keep_nothing_of_the_defaults_and_a_limit_keeps_the_data() -> None:
    other = make_question({"kind": "layers"}, flags={"data": "rows.jsonl", "max_eval": 9})
    assert (other.data.train, other.data.max_eval, other.data.max_length) == ("rows.jsonl", 9, 512)
    limited = make_question({"kind": "layers"}, flags={"max_eval": 9})
    assert (limited.data.train, limited.data.max_length) == (LayersQuestion().data.train, 128)


def test_a_limit_goes_with_the_problems_of_another_task() -> None:
    gym = {"kind": "rl", "objective": {"kind": "rl", "task": "gym:chain_sum"}}
    limited = make_question({**gym, "data": {"max_train": 4}}, flags={"max_eval": 9})
    data = limited.data
    assert (data.train, data.max_train, data.max_eval, data.overlong) == ("gym:chain_sum", 4, 9, "drop")
    assert make_question({"kind": "rl"}, flags={"max_eval": 9}).data.train == "builtin:arithmetic:difficulty=5"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "rnak"}, "Did you mean 'rank'"),
        ({}, "names the question"),
        ({"kind": "rank", "rnaks": [1]}, "unknown key 'rnaks'"),
        ({"kind": "rank", "epochs": 1}, "steps"),
        ({"kind": "short-runs", "lengths": [10, 20]}, "must ascend and end with"),
        ({"kind": "short-runs", "optimizer": {"schedule": "linear"}}, "constant rate"),
        ({"kind": "batch-size", "examples": 100, "batches": [8, 16]}, "no multiple"),
        ({"kind": "capacity", "data": {"train": "rows.jsonl"}}, "known bits"),
        ({"kind": "capacity", "data": {"train": CAPACITY, "max_eval": 9}}, "bits are counted over all facts"),
        ({"kind": "capacity", "data": {"train": CAPACITY}, "people": 21}, "test_size must be 105 at least"),
        ({"kind": "rank", "ranks": [4, 1, 4]}, "ranks: 4 is named twice"),
        ({"kind": "batch-size", "batches": [8, 8]}, "batches: 8 is named twice"),
        ({"kind": "layers", "data": 3}, "data is 3, and must be a table"),
        ({"kind": "rl", "objective": "sft"}, "must be 'rl' here, not 'sft'"),
        ({"kind": "rank", "objective": {"kind": "rl", "task": "builtin:arithmetic"}}, "must be 'sft' here, not 'rl'"),
        ({"kind": "rl", "objective": {"kind": "rl", "task": "math"}}, "'math' brings no problems of its own"),
        (
            {"kind": "rl", "objective": {"kind": "rl", "task": "math"}, "data": {"max_eval": 9}},
            "'data.train' is missing",
        ),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        make_question(values)


def test_a_flag_that_a_question_has_no_use_for_is_refused() -> None:
    with pytest.raises(SpecError, match="--ranks: the question 'variants'"):
        make_question({"kind": "variants"}, flags={"ranks": [1]})


def test_a_larger_question_asks_for_all_that_the_smaller_one_did() -> None:
    small = make_question({"kind": "rank", "ranks": [1, 4], "sizes": [8, 16]}).groups()
    large = {
        group.key: group for group in make_question({"kind": "rank", "ranks": [1, 4, 9], "sizes": [8, 16, 32]}).groups()
    }
    for group in small:
        beside = large[group.key]
        assert set(group.methods) <= set(beside.methods)
        assert beside.model_copy(update={"methods": group.methods}) == group


# --- laws of every entry --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", QUESTIONS)
def test_the_folder_of_a_question_has_its_name(kind: str) -> None:
    name = kind.replace("-", "_")
    assert QUESTIONS[kind].__module__ == f"lowregret.questions.{name}.spec"
    assert QUESTIONS[kind]().kind == kind  # type: ignore[attr-defined]
    assert {path.name for path in (FOLDER / name).glob("*.py")} >= {"__init__.py", "spec.py", "claims.py", "figures.py"}


def test_every_folder_is_listed() -> None:
    folders = {path.parent.name for path in FOLDER.glob("*/spec.py")}
    assert folders == {kind.replace("-", "_") for kind in QUESTIONS}


def test_titles_are_there_and_no_two_are_one() -> None:
    assert len({question.TITLE for question in QUESTIONS.values()}) == len(QUESTIONS)


@pytest.mark.parametrize("kind", QUESTIONS)
def test_what_quick_sets_and_what_is_its_own_are_fields_or_flags(kind: str) -> None:
    question = QUESTIONS[kind]
    assert set(question.QUICK) <= set(question.model_fields)
    assert set(question.OWN) <= {*question.model_fields, "eval_data"}
    assert question().setting()["Base"]


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("kind", QUESTIONS)
def test_statements_can_be_kept_and_ruled_on(kind: str, quick: bool) -> None:
    stated = claims(make_question({"kind": kind}, quick=quick))
    assert stated
    assert statements(make_question({"kind": kind}, quick=quick)) == tuple(one.statement for one in stated)
    for one in stated:
        statement = one.statement
        assert Statement.model_validate(statement.model_dump(mode="json")) == statement
        bounds = [bound for bound in (statement.low, statement.high) if bound is not None]
        assert bounds, f"{statement.key}: what would refute it?"
        assert bounds == sorted(set(bounds))
        assert re.fullmatch(r"\d(\.\d+)?", statement.number)
        assert statement.sentence.endswith(".")
        assert statement.threshold
    assert len({one.measure for one in stated}) == len(stated), "each statement has a statistic of its own"


def test_no_two_claims_of_all_questions_share_a_key() -> None:
    keys = [statement.key for question in QUESTIONS.values() for statement in statements(question())]
    assert len(set(keys)) == len(keys)


def test_the_registry_imports_neither_altair_nor_torch() -> None:
    code = "import sys, lowregret.questions.registry, lowregret.questions.judge, lowregret.questions.evidence; "
    code += "print(sorted({'altair', 'torch', 'vl_convert'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
