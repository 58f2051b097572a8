"""What single questions promise of their groups."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from lowregret.errors import SpecError
from lowregret.questions.invariance.spec import InvarianceQuestion
from lowregret.questions.question import log_spaced
from lowregret.questions.registry import QUESTIONS, Asked, make_question, statements
from lowregret.spec import LoRA, build


def test_transforms_keep_both_invariants_and_changes_keep_one() -> None:
    question = InvarianceQuestion()

    def invariants(lora: LoRA) -> tuple[float, float]:
        return lora.alpha * lora.init_scale * lora.b_rate, lora.init_scale / lora.a_rate

    plain, *others = question.methods()
    for index, lora in enumerate(others):
        same = [abs(a / b - 1) < 1e-9 for a, b in zip(invariants(lora), invariants(plain), strict=True)]
        assert same.count(True) == (2 if index < len(question.transforms) else 1)


def test_evaluations_are_even_in_the_logarithm() -> None:
    assert log_spaced(2, 512, 9) == (2, 4, 8, 16, 32, 64, 128, 256, 512)
    assert log_spaced(5, 3, 4) == (3,)
    assert log_spaced(2, 8, 1) == (8,)


@pytest.mark.parametrize("quick", [False, True])
def test_what_teaches_and_what_elicits_is_evaluated_where_the_slope_is_taken(quick: bool) -> None:
    """A slope over the second half of the epoch has an error only with three evaluations there."""
    groups = {group.condition: group for group in make_question({"kind": "capacity"}, quick=quick).groups()}
    for name in ("teach", "elicit"):
        evals, steps = groups[name].evals, groups[name].steps
        assert isinstance(evals, tuple)
        assert steps is not None
        assert evals[-1] == steps
        assert sum(step >= steps / 2 for step in evals) >= 3


def bounded(kind: str) -> list[tuple[str, Any]]:
    """Every number, and list of numbers, of a question at the ends of what it may be."""
    schema = QUESTIONS[kind].model_json_schema()
    found: list[tuple[str, Any]] = []
    for name, told in schema["properties"].items():
        for part in told.get("anyOf", [told]):
            numbers = part.get("items", part)
            ends = [numbers.get("minimum"), numbers.get("maximum"), numbers.get("exclusiveMaximum")]
            for end in (end for end in ends if end is not None):
                values = [[end], [1, end], [end, end - 1]] if "items" in part else [end, end - 1]
                found += [(name, value) for value in values]
    return found


@pytest.mark.parametrize("kind", QUESTIONS)
def test_a_question_is_refused_or_its_trials_can_be(kind: str) -> None:
    """A number that is right by itself may be none for a trial: twice a rank, a batch, the seeds."""
    assert len(bounded(kind)) > 10
    for name, value in bounded(kind):
        with suppress(SpecError):
            make_question({"kind": kind, name: value}).groups()


def test_the_rank_that_attention_alone_doubles_has_a_bound_of_its_own() -> None:
    with pytest.raises(SpecError, match=r"^ranks.1: should be less than or equal to 32768 \(got 65536\)\.$"):
        make_question({"kind": "layers"}, flags={"ranks": (4, 65536)})
    with pytest.raises(SpecError, match=r"^ranks.0: should be less than or equal to 32768 \(got 65536\)\.$"):
        make_question({"kind": "layers"}, flags={"ranks": (65536,)})
    make_question({"kind": "layers"}, flags={"ranks": (4, 32768)}).groups()


def test_what_only_its_trials_tell_is_told_with_the_file() -> None:
    wrong = {"kind": "invariance", "changes": [1e9]}
    with pytest.raises(SpecError, match=r"^x\.toml: the question 'invariance' asks for trials that cannot be: alpha: "):
        make_question(wrong, source="x.toml")
    with pytest.raises(SpecError, match="asks for trials that cannot be"):
        build(Asked, {"question": wrong})


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ("builtin:biographies:size={size},wordings=6", "With 32 people, "),
        ("builtin:arithmetic:size={size}", "With data of size 32, "),
        ("rows.jsonl", "With 32 examples, "),
    ],
)
def test_a_size_is_said_as_what_it_is(train: str, said: str) -> None:
    """Of facts about 32 people there are 960 rows."""
    found = statements(make_question({"kind": "rank", "data": {"train": train}, "sizes": (32,)}))
    assert all(s.sentence.startswith(said) for s in found if s.key.endswith(":32"))
