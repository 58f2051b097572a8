"""The best rate of a method under a condition of a study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lowregret.analysis.bowl import Bowl
from lowregret.analysis.comparison import measure
from lowregret.analysis.condition import BestOverSeeds, Condition, Trial
from lowregret.analysis.fits import Estimate
from lowregret.analysis.place import Place
from lowregret.runs.atomic import as_record, write_json
from lowregret.runs.files import EXAMPLES
from lowregret.runs.records import PUT_ASIDE, STOPPED, ExampleLosses, TrialRecord
from lowregret.spec import FullFT, LoRA, TrialSpec
from lowregret.strict_json import finite

METHOD = LoRA(rank=4)
BASE = 3.0
STEP = 5
"""An evaluation before the end, with the same losses."""
Ended = float | str | None
"""A loss; None where the trial diverged, or another way in which it ended without one."""


def trial(rate: float, ended: Ended, seed: int = 0, *, reached: bool = False) -> Trial:
    """`reached`: whether a trial without a loss was evaluated once before it ended."""
    spec = TrialSpec(method=METHOD, learning_rate=rate, seed=seed)
    status, error = {None: ("diverged", None), "stopped": ("failed", f"{STOPPED} after step 3")}.get(
        ended if not isinstance(ended, float) else None, (ended, None)
    )
    if isinstance(ended, float):
        record = TrialRecord.of(spec, status="finished", test_nll=ended, steps=10)
        return Trial(record, Path(), {STEP: ended}, {}, None)
    if ended == "put aside":
        status, error = "pruned", PUT_ASIDE
    record = TrialRecord.of(spec, status=status, error=error)
    return Trial(record, Path(), {STEP: 2.5} if reached else {}, {}, None)


def condition(*trials: Trial) -> Condition:
    nothing: Any = None  # a best rate does not ask for the group's spec
    return Condition("main", nothing, (METHOD,), trials, BASE, 128)


def best(losses: Mapping[float, Ended], step: int | None = None) -> BestOverSeeds:
    """By learning rate."""
    found = condition(*(trial(rate, loss) for rate, loss in losses.items())).best(METHOD.name, step)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("losses", "rate", "bracketed"),
    [
        ((2.0, 1.0, 1.0, 1.0, 2.0), 4e-3, True),
        ((2.0, 1.0, 1.0, 2.0, 2.0), 2e-3, True),
        ((1.0, 1.0, 1.0, 2.0, 2.0), 2e-3, False),
        ((2.0, 2.0, 1.0, 1.0, 1.0), 8e-3, False),
        ((2.0, 1.0, 1.0, 1.0, None), 4e-3, True),
    ],
    ids=["three", "two: the lower", "to the lowest rate", "to the highest rate", "beside one that diverged"],
)
def test_of_equal_losses_the_middle_is_best_and_the_plateau_is_bracketed(
    losses: tuple[float | None, ...], rate: float, bracketed: bool
) -> None:
    found = best({1e-3 * 2**place: loss for place, loss in enumerate(losses)})
    assert found.learning_rate == pytest.approx(rate)
    assert found.bracketed is bracketed


def test_beside_a_rate_that_diverged_the_bottom_is_half_way_at_most() -> None:
    found = best({1e-3: 2.0, 2e-3: 1.0, 4e-3: None})
    assert found.fitted == {0: Place(pytest.approx(-8.96578, abs=1e-5), 0.5)}, "log2 of 0.002"
    assert found.bottoms == {}


def test_a_seed_whose_own_best_is_the_search_s_neighbour_has_its_bottom_between_the_two() -> None:
    trials = [trial(rate, loss, 0) for rate, loss in ((1e-3, 1.2), (2e-3, 1.0), (4e-3, 1.2))]
    trials += [trial(rate, loss, 1) for rate, loss in ((1e-3, 0.9), (2e-3, 1.0), (4e-3, 1.2))]
    found = condition(*trials).best(METHOD.name)
    assert found is not None
    one, other = found.fitted[0], found.fitted[1]
    assert (one.give, other.give) == (0.0, 0.5)
    assert other.at == pytest.approx(one.at - 0.5)


def test_the_bottom_is_read_off_the_parabola_by_hand() -> None:
    """Rises of 0.3 below and 0.1 above: a quarter of a doubling up, and 0.2² / (8 · 0.4) = 0.0125 down."""
    found = best({1e-3: 1.3, 2e-3: 1.0, 4e-3: 1.1})
    assert found.fitted == {0: Place(pytest.approx(-8.96578 + 0.25, abs=1e-5))}
    assert found.bottoms == {0: pytest.approx(1.0 - 0.0125)}


# --- trials that say nothing of their rate ----------------------------------------------------------------------------

SAYS_NOTHING = ("failed", "stopped", "running", "put aside")
IS_WORSE = (None, "pruned", 2.0)


@pytest.mark.parametrize("step", [None, STEP])
@pytest.mark.parametrize("ended", [*SAYS_NOTHING, *IS_WORSE])
@pytest.mark.parametrize("side", [0.5, 2.0])
def test_only_what_was_worse_closes_a_side(ended: Ended, side: float, step: int | None) -> None:
    rate = 2e-3
    found = best({rate: 1.0, rate / side: 1.2, rate * side: ended}, step)
    assert found.learning_rate == rate
    assert found.bracketed is (ended in IS_WORSE)
    assert found.fitted_rate is not None
    assert found.fitted_rate.known is (ended in IS_WORSE)


@pytest.mark.parametrize("ended", SAYS_NOTHING)
def test_a_trial_that_failed_after_an_evaluation_says_nothing_of_it_either(ended: str) -> None:
    found = condition(trial(1e-3, 1.2), trial(2e-3, 1.0), trial(4e-3, ended, reached=True)).best(METHOD.name, STEP)
    assert found is not None
    assert found.bracketed is False
    assert condition(trial(4e-3, ended, reached=True)).best(METHOD.name, STEP) is None


@pytest.mark.parametrize("ended", [*SAYS_NOTHING, *IS_WORSE])
@pytest.mark.parametrize("place", range(4))
def test_a_study_and_a_verdict_have_one_best_rate_bracket_and_bowl(place: int, ended: Ended) -> None:
    """Whatever became of one of four trials."""
    losses: list[Ended] = [1.4, 1.0, 1.1, 1.5]
    losses[place] = ended
    trials = [trial(1e-3 * 2**k, loss) for k, loss in enumerate(losses)]
    ours, verdict = condition(*trials).best(METHOD.name), measure(METHOD, [t.record for t in trials], BASE)
    assert ours is not None
    assert (ours.rate, ours.rate.bowl) == (verdict.rate, verdict.rate.bowl)
    assert ours.losses == {seed: record.test_nll for seed, record in verdict.finished.items()}


def test_beside_one_that_failed_the_bowl_goes_to_the_next_rate_that_was_tried() -> None:
    found = best({1e-3: 1.3, 2e-3: 1.0, 4e-3: "failed", 8e-3: 1.2})
    assert found.bracketed is True
    place = Bowl(1.0, 1.3, 1.2, 1.0, 2.0).bottom().place
    assert found.fitted == {0: Place(pytest.approx(-8.96578 + place, abs=1e-5))}
    assert found.fitted_rate is not None
    assert (found.fitted_rate.low, found.fitted_rate.high) == (1e-3, 8e-3), "with one seed, what the neighbours allow"


def test_a_seed_that_lacks_a_side_of_the_bowl_has_no_fit() -> None:
    first = [trial(1e-3, 1.3), trial(2e-3, 1.0), trial(4e-3, 1.1)]
    more = [trial(1e-3, 1.3, 1), trial(2e-3, 1.0, 1), trial(4e-3, "failed", 1), trial(8e-3, 1.1, 1)]
    found = condition(*first, *more).best(METHOD.name)
    assert found is not None
    assert found.losses == {0: 1.0, 1: 1.0}
    assert found.fitted.keys() == found.bottoms.keys() == {0}


def test_a_difference_that_rests_on_the_bowls_alone_is_read_as_it_was_written(tmp_path: Path) -> None:
    """One seed, and no two examples that differ: its degrees of freedom have no end, which a file says as null."""
    trials = []
    for method in (FullFT(), METHOD):
        for rate, loss in ((1e-3, 1.3), (2e-3, 1.0), (4e-3, 1.1)):
            asked = TrialSpec(method=method, learning_rate=rate)
            home = tmp_path / asked.id
            home.mkdir()
            write_json(home / EXAMPLES, ExampleLosses(nll_sums=(loss,) * 8, tokens=(1,) * 8))
            record = TrialRecord.of(asked, status="finished", test_nll=loss)
            trials.append(Trial(record, home, {}, {}, None))
    searched: Any = SimpleNamespace(learning_rates="search")
    whole = Condition("main", searched, (METHOD, FullFT()), tuple(trials), 3.0, 128)
    found = whole.difference(METHOD.name, "full")
    assert found is not None
    assert found.known
    assert found.freedom is None
    assert as_record(Estimate, finite(found.model_dump(mode="json")), tmp_path) == found
