"""How many held-out examples fit in a fifth of the training, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.plan.resources.evaluation import EVALUATION_SHARE, choose_evaluation, evaluation_share


def test_a_long_run_is_judged_by_all() -> None:
    """1,000 examples of 50 tokens, twice, are 100,000 forward tokens: of 2 · 500,000 a tenth."""
    found = choose_evaluation([50.0] * 1000, 500_000, 2)
    assert (found.examples, found.evaluations) == (1000, 2)
    assert found.share == pytest.approx(0.1)


def test_a_fifth_of_the_training_is_shared_by_the_evaluations() -> None:
    """0.2 · 2 · 40,000 = 16,000 forward tokens; two evaluations get 8,000 each, which are 160 examples of 50."""
    found = choose_evaluation([50.0] * 1000, 40_000, 2)
    assert (found.examples, found.evaluations) == (160, 2)
    assert found.share == pytest.approx(0.2)


def test_lengths_count_one_by_one() -> None:
    """4,000 forward tokens for one evaluation: forty of 100 tokens; the short ones that follow do not count."""
    assert choose_evaluation([100.0] * 60 + [1.0] * 1000, 10_000, 1).examples == 40
    assert choose_evaluation([1.0] * 1000 + [100.0] * 60, 10_000, 1).examples == 1030


@pytest.mark.parametrize(("tokens", "evaluations", "examples"), [(24_000, 3, 64), (16_000, 2, 64), (8_000, 1, 64)])
def test_early_evaluations_are_given_up_before_examples(tokens: int, evaluations: int, examples: int) -> None:
    """0.4 · tokens / 50 examples in all: 192, 128 and 64, so that 3, 2 and 1 evaluations have 64."""
    found = choose_evaluation([50.0] * 1000, tokens, 3)
    assert (found.examples, found.evaluations) == (examples, evaluations)


def test_evaluations_that_were_asked_for_stay() -> None:
    found = choose_evaluation([50.0] * 1000, 16_000, 4, fewest=4)
    assert (found.examples, found.evaluations) == (32, 4)


def test_eight_examples_judge_however_short_the_run_is() -> None:
    found = choose_evaluation([50.0] * 1000, 100, 4)
    assert (found.examples, found.evaluations) == (8, 1)
    assert found.share == pytest.approx(8 * 50 / 200)
    assert choose_evaluation([50.0] * 5, 100, 4).examples == 5


def test_the_case_of_the_issue() -> None:
    """32 of GSM8K's training rows and its 1,319 held-out ones, twice, of about as many tokens: 82 times the passes,
    so 41 times the arithmetic; now a fifth, with what is the floor."""
    assert evaluation_share(1319 * 150, 2, 32 * 150) == pytest.approx(41.2, abs=0.1)
    found = choose_evaluation([150.0] * 1319, 32 * 150, 2)
    assert (found.examples, found.evaluations) == (12, 1)
    assert found.share <= EVALUATION_SHARE


@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=300),
    tokens=st.integers(1, 200_000),
    evaluations=st.integers(1, 8),
)
def test_the_budget_holds_wherever_more_than_the_floor_is_used(
    lengths: list[int], tokens: int, evaluations: int
) -> None:
    found = choose_evaluation([float(n) for n in lengths], tokens, evaluations)
    assert 1 <= found.examples <= len(lengths)
    assert 1 <= found.evaluations <= evaluations
    if found.examples > 8:
        assert found.share <= EVALUATION_SHARE + 1e-9
    if found.examples < len(lengths):
        more = evaluation_share(sum(lengths[: found.examples + 1]), found.evaluations, tokens)
        assert more > EVALUATION_SHARE
