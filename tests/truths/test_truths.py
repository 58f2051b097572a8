"""Every claim of every question, in worlds of which the answer is known: it holds where it is so, and not elsewhere.

A sign, a bound, a numerator or an order that is turned round gives a wrong ruling in one of them. All tests run over
the registry of questions and over what each question states, so that a claim without worlds fails.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from lowregret.questions.claim import Statement
from lowregret.questions.evidence import read_evidence
from lowregret.questions.judge import Claim, judge_study
from lowregret.questions.registry import QUESTIONS, make_question, statements
from truths.mutations import is_centred
from truths.simulator import World, write_study

PLACE = "tests/truths/worlds"
MIN_SEEDS = 3
Judged = Callable[[World], dict[str, Claim]]


def file_of(kind: str) -> str:
    return kind.replace("-", "_")


def worlds_of(kind: str) -> tuple[World, ...]:
    """Empty when the question has no file."""
    name = f"truths.worlds.{file_of(kind)}"
    if importlib.util.find_spec(name) is None:
        return ()
    found: tuple[World, ...] = importlib.import_module(name).WORLDS
    return found


def stated(world: World) -> dict[str, Statement]:
    """Claims by key, with the bounds that the world's question gives them."""
    return {statement.key: statement for statement in statements(make_question(world.question))}


CASES = [
    pytest.param(world, key, id=f"{kind}: {world.name}: {key}")
    for kind in QUESTIONS
    for world in worlds_of(kind)
    for key in world.truths
]


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """The claims of a world's study, which is written and judged once."""
    known: dict[World, dict[str, Claim]] = {}

    def judge(world: World) -> dict[str, Claim]:
        if world not in known:
            folder, question = tmp_path_factory.mktemp("world"), make_question(world.question)
            write_study(folder, question, question.groups(), world)
            known[world] = {claim.statement.key: claim for claim in judge_study(read_evidence(folder)).claims}
        return known[world]

    return judge


@pytest.mark.parametrize(("world", "key"), CASES)
def test_a_claim_is_judged_as_it_is(judged: Judged, world: World, key: str) -> None:
    truth, claims = world.truths[key], judged(world)
    assert key in claims, f"{world.name}: the question states no claim {key!r}; it states {', '.join(claims)}"
    claim = claims[key]
    found = claim.estimate
    assert found is not None, f"not measured: {claim.note}"
    room = truth.within * abs(truth.value)
    assert found.low is not None, claim.note
    assert found.high is not None, claim.note
    assert found.n >= MIN_SEEDS
    if truth.holds is None:
        assert found.low < truth.value < found.high
        assert (claim.ruling, claim.corrected) == ("open", "open"), f"{found}, {claim.statement.threshold}"
        return
    assert found.value == pytest.approx(truth.value, abs=room), claim.statement.statistic
    assert is_centred(found), f"{found}: a value that is no mean"
    assert found.low - room <= truth.value <= found.high + room
    assert claim.ruling == ("holds" if truth.holds else "does not hold"), f"{found}, {claim.statement.threshold}"


@pytest.mark.parametrize("kind", QUESTIONS)
def test_every_claim_is_so_in_one_world_not_in_another_and_open_in_a_third(kind: str) -> None:
    place, worlds = f"{PLACE}/{file_of(kind)}.py", worlds_of(kind)
    assert worlds, f"the question {kind!r} has no worlds: add them as WORLDS of {place}"
    keys = dict.fromkeys(stem(s.key) for s in statements(make_question({"kind": kind})))
    keys |= dict.fromkeys(stem(key) for world in worlds for key in stated(world))
    for key in keys:
        for holds, so in ((True, "holds"), (False, "does not hold"), (None, "is open")):
            there = [
                world
                for world in worlds
                for own, truth in world.truths.items()
                if stem(own) == key and truth.holds is holds
            ]
            assert there, (
                f"{key}: no world in which it {so}; add one to {place}, with a "
                "truth that follows from the world's own numbers"
            )


def stem(key: str) -> str:
    """Without the size, rank or base of one claim of several that are measured alike."""
    return key.partition(":")[0]


@pytest.mark.parametrize("kind", QUESTIONS)
def test_a_bound_that_is_off_by_two_would_be_seen(kind: str) -> None:
    """On both sides of every bound lies a world, within a factor of 2 of it."""
    known = [
        (stated(world)[key], truth)
        for world in worlds_of(kind)
        for key, truth in world.truths.items()
        if truth.holds is not None
    ]
    for key in {stem(statement.key) for statement, _ in known}:
        own = [(statement, truth) for statement, truth in known if stem(statement.key) == key]
        for side in ("low", "high"):
            near = {truth.holds for statement, truth in own if beside(getattr(statement, side), truth.value, side)}
            bounded = any(getattr(statement, side) is not None for statement, _ in own)
            assert near == ({True, False} if bounded else set()), (
                f"{key}: one world must lie inside of its bound ({side}) and one outside, each within a factor of 2; "
                f"add what lacks to {PLACE}/{file_of(kind)}.py"
            )
        for statement, truth in own:
            assert truth.holds == within(statement, truth.value), f"{key}: {truth} against {statement.threshold}"


def beside(bound: float | None, value: float, side: str) -> bool:
    """Whether a bound that is off by two, or by its sign when it is zero, can put the value on its other side."""
    return bound is not None and (bound == 0 or 0.5 <= value / bound <= 2)


def within(statement: Statement, value: float) -> bool:
    return (statement.low is None or value > statement.low) and (statement.high is None or value < statement.high)


def test_every_file_of_worlds_is_about_a_question() -> None:
    files = {path.stem for path in Path(__file__).with_name("worlds").glob("*.py")}
    assert files == {file_of(kind) for kind in QUESTIONS}
