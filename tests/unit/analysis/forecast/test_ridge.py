"""The linear model of the forecasts: what it finds, and that its intervals hold on groups that it has not seen."""

from __future__ import annotations

import math
import random

import pytest

from lowregret.analysis.forecast.ridge import PENALTY, Known, Ridge, left_out


def world(generator: random.Random, groups: int, each: int = 4) -> list[Known]:
    """Targets that are linear in two features, with an error of the group and one of the case."""
    found = []
    for group in range(groups):
        shared = generator.gauss(0, 0.3)
        for _ in range(each):
            features = (generator.gauss(2, 1), generator.gauss(0, 3))
            target = 1 + 2 * features[0] - 0.5 * features[1] + shared + generator.gauss(0, 0.2)
            found.append(Known(features, target, str(group)))
    return found


def test_it_is_least_squares_with_a_penalty_on_standardised_features() -> None:
    known = [Known((x,), y, str(x)) for x, y in ((0.0, 1.0), (1.0, 2.0), (2.0, 3.0))]
    # By hand: the mean of the targets is 2; standardised x is ±√1.5, so that Σx² = 3 and Σxy = 2·√1.5.
    weight = 2 * math.sqrt(1.5) / (3 + PENALTY)
    found = Ridge(known).predict((2.0,))
    assert found.value == pytest.approx(2 + weight * math.sqrt(1.5))
    assert found.leverage == pytest.approx(1 / 3 + 1.5 / (3 + PENALTY))


@pytest.mark.parametrize("groups", [9, 29])
def test_nine_of_ten_new_groups_lie_in_the_interval_with_all_their_cases(groups: int) -> None:
    """However alike the cases of a group are: with cases as the unit 80 % of these groups would."""
    generator = random.Random(0)
    inside = 0
    for _ in range(200):
        cases = world(generator, groups + 1)
        model = Ridge(cases[:-4])
        found = [(model.predict(case.features, 0.9), case.target) for case in cases[-4:]]
        inside += all(interval.low <= target <= interval.high for interval, target in found)
    assert 0.85 <= inside / 200 <= 0.95


def test_a_case_far_from_all_that_is_known_has_a_wider_interval() -> None:
    model = Ridge(world(random.Random(1), 12))
    near, far = model.predict((2.0, 0.0)), model.predict((40.0, 0.0))
    assert far.leverage > 10 * near.leverage
    assert far.high - far.low > 2 * (near.high - near.low)


def test_beyond_what_is_typical_an_interval_widens_by_how_far_that_is() -> None:
    """√(1 + leverage) alone would add a few per cent at the leverages of a bank."""
    model = Ridge(world(random.Random(1), 12))
    leverages = sorted(leverage for _, leverage in left_out(world(random.Random(1), 12)))
    assert sum(leverage <= model.typical for leverage in leverages) == math.ceil(0.9 * len(leverages))
    assert model.scale(model.typical) == pytest.approx(math.sqrt(1 + model.typical))
    assert model.scale(4 * model.typical) == pytest.approx(2 * math.sqrt(1 + 4 * model.typical))


def test_a_group_takes_no_part_in_its_own_prediction() -> None:
    """A group whose targets are all off by ten is not seen to be so by a model of the others."""
    known = world(random.Random(2), 12)
    off = [Known(case.features, case.target + 10, case.group) if case.group == "0" else case for case in known]
    errors = left_out(off)
    assert all(error > 6 for (error, _), case in zip(errors, off, strict=True) if case.group == "0")


def test_with_too_few_groups_for_a_level_the_interval_has_no_end() -> None:
    model = Ridge(world(random.Random(3), 8, each=20))
    assert model.predict((2.0, 0.0), 0.9).high == math.inf
    assert model.predict((2.0, 0.0), 0.8).high < math.inf


def test_the_chance_of_lying_below_rises_from_nought_to_one() -> None:
    model = Ridge(world(random.Random(4), 12))
    value = model.predict((2.0, 0.0)).value
    chances = [model.chance_below((2.0, 0.0), value + off) for off in (-50, -0.3, 0, 0.3, 50)]
    assert chances == sorted(chances)
    assert chances[0] < 0.05
    assert chances[2] == pytest.approx(0.5, abs=0.15)
    assert chances[-1] > 0.95


def test_the_chance_of_lying_below_is_how_often_targets_do() -> None:
    """Of new groups whose chance is said to be about a quarter, a half, three quarters."""
    generator, told = random.Random(6), []
    for _ in range(300):
        cases = world(generator, 17)
        model, case = Ridge(cases[:-4]), cases[-1]
        bound = model.predict(case.features).value + generator.uniform(-0.5, 0.5)
        told.append((model.chance_below(case.features, bound), case.target < bound))
    for low, high in ((0.1, 0.4), (0.4, 0.6), (0.6, 0.9)):
        some = [(chance, below) for chance, below in told if low <= chance < high]
        assert len(some) > 30
        assert sum(below for _, below in some) / len(some) == pytest.approx(
            sum(chance for chance, _ in some) / len(some), abs=0.12
        )


def test_one_group_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="one group"):
        Ridge(world(random.Random(5), 1))
