"""When looking again and again stops, and what it may cost."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from scipy import stats

from lowregret.analysis.fits import Estimate
from lowregret.errors import SpecError
from lowregret.questions.claim import Statement
from lowregret.questions.judge import ALPHA, MIN_SEEDS, Claim, Claims, p_value, rule
from lowregret.study.budget import Allowed, Budget, parse_budget
from lowregret.study.settle import is_settled, level, openness

POSITIVE = Statement(key="k", number="1", sentence="s", statistic="s", unit="nats", low=0.0)


def claim(values: list[float]) -> Claim:
    """That their mean is above zero, with Student's interval."""
    mean, n = statistics.fmean(values), len(values)
    half = stats.t.ppf(0.975, n - 1) * statistics.stdev(values) / math.sqrt(n)
    found = Estimate(value=mean, low=mean - half, high=mean + half, n=n, freedom=float(n - 1))
    few = n < MIN_SEEDS
    ruling = "open" if few else rule(POSITIVE, found)
    return Claim(statement=POSITIVE, ruling=ruling, estimate=found, p=None if few else p_value(POSITIVE, found))


def claims(*of: Claim) -> Claims:
    return Claims(kind="rank", claims=of, noise_nats=None, trials={})


def test_all_looks_together_have_five_percent() -> None:
    assert sum(level(seeds) for seeds in range(MIN_SEEDS, 10_000)) == pytest.approx(ALPHA, rel=1e-3)
    assert sum(level(seeds) for seeds in range(MIN_SEEDS, 10_000)) < ALPHA


def test_a_question_of_no_effect_is_settled_falsely_in_five_of_a_hundred_studies_at_most() -> None:
    """Of 400 simulated questions with 12 looks each; plain intervals would settle more than twice as many."""
    draw = random.Random(0)
    wrong = plain = 0
    for _ in range(400):
        values = [draw.gauss(0, 1) for _ in range(14)]
        seen = [claims(claim(values[:seeds])) for seeds in range(MIN_SEEDS, 15)]
        wrong += any(is_settled(found, seeds) for seeds, found in enumerate(seen, start=MIN_SEEDS))
        plain += any(found.claims[0].ruling != "open" for found in seen)
    assert wrong <= 0.05 * 400 + 9  # and two standard deviations
    assert plain > 2 * wrong


def test_one_open_claim_keeps_a_question_open() -> None:
    clear, vague = claim([1.0, 1.001, 0.999, 1.0]), claim([1.0, -1.0, 0.5, 0.4])
    assert is_settled(claims(clear), 4)
    assert not is_settled(claims(clear, vague), 4)
    assert not is_settled(claims(clear), 2)
    assert not is_settled(claims(), 4)


def test_the_widest_open_interval_is_the_most_open() -> None:
    narrow, wide = claim([1.0, 0.2, 0.6, -0.1]), claim([5.0, -5.0, 0.5, 0.4])
    assert narrow.ruling == wide.ruling == "open"
    assert openness(claims(wide), 4) > openness(claims(narrow), 4) > 1
    assert openness(claims(claim([1.0, 1.001, 0.999])), 3) == 0
    assert openness(claims(claim([1.0, 2.0])), 2) == math.inf
    unmeasured = Claim(statement=POSITIVE, ruling="open", estimate=None)
    assert openness(claims(unmeasured), 4) == 0, "more seeds would not help"


def test_a_claim_that_has_only_just_ruled_is_no_reason_to_stop_adding_seeds() -> None:
    """A budget that adds seeds until the plain interval rules, and then none, makes a ruling out of noise."""
    barely = claim([1.0, 0.7, 0.2, 0.4])
    assert barely.ruling == "holds"
    assert barely.p is not None
    assert level(4) < barely.p < ALPHA
    assert 0 < openness(claims(barely), 4) < 1


@pytest.mark.parametrize(
    ("text", "asked"),
    [("4h", Allowed(14400)), ("30min", Allowed(1800)), ("1.5d", Allowed(129600)), ("$20", Allowed(dollars=20))],
)
def test_budgets_are_read(text: str, asked: Allowed) -> None:
    assert parse_budget(text) == asked


@pytest.mark.parametrize("text", ["4", "$4h", "h", "-1h", "0h", "20$", ""])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="such as 30min, 4h or 2d, or dollars"):
        parse_budget(text)


def test_a_budget_is_spent_by_the_clock_and_dollars_need_a_price() -> None:
    now = 0.0
    budget = Budget(Allowed(dollars=20), 10.0, lambda: now)
    assert budget.left == 7200
    now = 3600.0
    assert str(budget) == "$10.00 of $20 spent"
    now = 7200.0
    assert budget.over()
    with pytest.raises(SpecError, match="price of these machines is not known"):
        Budget(Allowed(dollars=20), None)
