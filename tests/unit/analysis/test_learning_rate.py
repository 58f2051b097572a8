"""Laws of the winner of a search and of its bracket."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.analysis.bowl import Bowl
from lowregret.analysis.learning_rate import BestRate, best_rate
from lowregret.runs.records import Status, TrialRecord
from lowregret.spec import LoRA, TrialSpec


def trial(rate: float, loss: float | None, status: Status = "finished", seed: int = 0, rank: int = 16) -> TrialRecord:
    spec = TrialSpec(method=LoRA(rank=rank), learning_rate=rate, seed=seed)
    return TrialRecord(
        id=spec.id, method=spec.method.name, learning_rate=rate, seed=seed, status=status, spec=spec, test_nll=loss
    )


def search(losses: dict[float, float | None]) -> BestRate:
    return best_rate([trial(rate, loss) for rate, loss in losses.items()])


def test_worse_losses_on_both_sides_bracket() -> None:
    assert search({1e-4: 2.0, 4e-4: 1.5, 16e-4: 1.8}) == BestRate(4e-4, True, 1.5, 1e-4, 16e-4)


@pytest.mark.parametrize(("losses", "edge"), [((1.0, 1.5, 2.0), "lower"), ((2.0, 1.5, 1.0), "upper")])
def test_a_best_rate_at_an_edge_is_not_bracketed(losses: tuple[float, ...], edge: str) -> None:
    found = search(dict(zip((1e-4, 2e-4, 4e-4), losses, strict=True)))
    assert not found.bracketed
    assert getattr(found, edge) is None


@pytest.mark.parametrize("losses", [(1.0, 1.0, 2.0), (2.0, 1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 2.0, 1.0)])
def test_a_tie_at_an_edge_is_not_a_worse_loss(losses: tuple[float, ...]) -> None:
    assert not search(dict(zip((1e-4, 2e-4, 4e-4), losses, strict=True))).bracketed


def test_a_plateau_inside_is_bracketed_by_the_worse_rates_around_it() -> None:
    assert search({1e-4: 2.0, 2e-4: 1.0, 4e-4: 1.0, 8e-4: 2.0}) == BestRate(2e-4, True, 1.0, 1e-4, 8e-4)


@pytest.mark.parametrize(
    ("tied", "best"), [((4e-4,), 4e-4), ((2e-4, 4e-4), 2e-4), ((2e-4, 4e-4, 8e-4), 4e-4), ((2e-4, 8e-4), 2e-4)]
)
def test_of_equal_losses_the_rate_in_the_middle_wins(tied: tuple[float, ...], best: float) -> None:
    losses: dict[float, float | None] = dict.fromkeys((1e-4, 2e-4, 4e-4, 8e-4, 16e-4), 2.0)
    found = search(losses | dict.fromkeys(tied, 1.0))
    assert (found.learning_rate, found.bracketed) == (best, True)
    assert (found.lower, found.upper) == (max(r for r in losses if r < tied[0]), min(r for r in losses if r > tied[-1]))


def test_the_bowl_has_the_nearest_rates_of_the_search_and_their_distance() -> None:
    found = search({1e-4: 2.0, 4e-4: 1.5, 8e-4: 1.8, 16e-4: 3.0}).bowl
    assert found == Bowl(at=1.5, below=2.0, above=1.8, to_below=2.0, to_above=1.0)
    assert search({1e-4: 2.0, 4e-4: 1.5}).bowl is None


@pytest.mark.parametrize("status", ["diverged", "pruned"])
def test_stopped_trials_are_worse_than_any_finished_one_whatever_loss_they_show(status: Status) -> None:
    found = best_rate([trial(1e-4, 2.0), trial(4e-4, 1.5), trial(16e-4, 0.1, status)])
    assert found == BestRate(4e-4, True, 1.5, 1e-4, 16e-4)


@pytest.mark.parametrize("status", ["failed", "running"])
def test_trials_without_a_result_bracket_nothing(status: Status) -> None:
    found = best_rate([trial(1e-4, 2.0), trial(4e-4, 1.5), trial(16e-4, 1.8, status)])
    assert found == BestRate(4e-4, False, 1.5, 1e-4, None)


def test_a_finished_trial_whose_loss_was_not_finite_is_no_winner() -> None:
    assert search({1e-4: None, 2e-4: 1.0, 4e-4: math.inf}) == BestRate(2e-4, True, 1.0, 1e-4, 4e-4)


def test_nothing_finished() -> None:
    assert best_rate([trial(1e-4, None, "diverged")]) == BestRate(None, False, None, None, None)
    assert best_rate([]) == BestRate(None, False, None, None, None)


def test_other_seeds_take_no_part() -> None:
    assert best_rate([trial(1e-4, 1.0), trial(2e-4, 0.5, seed=1)]).learning_rate == 1e-4


def test_two_methods_are_refused() -> None:
    with pytest.raises(ValueError, match="one method"):
        best_rate([trial(1e-4, 1.0), trial(1e-4, 1.0, rank=8)])


@given(st.dictionaries(st.sampled_from([2.0**k for k in range(-20, -5)]), st.sampled_from([1.0, 1.5, 2.0])))
def test_the_bracket_means_strictly_worse_on_both_sides(losses: dict[float, float]) -> None:
    found = search(dict(losses))
    if found.learning_rate is None:
        assert not losses
        return
    assert losses[found.learning_rate] == found.test_loss == min(losses.values())
    winners = [rate for rate, loss in losses.items() if loss == found.test_loss]
    assert found.bracketed == (min(losses) < min(winners) and max(losses) > max(winners))
    for side in (found.lower, found.upper):
        assert side is None or losses[side] > found.test_loss
