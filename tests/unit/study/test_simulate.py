"""A simulated cluster: what must hold of any schedule, and what is known in simple cases."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowregret.study.simulate import START_SECONDS, SimulatedCluster, SimulatedGroup, simulate

NEVER = 1e12
GROUPS = st.lists(
    st.builds(SimulatedGroup, st.floats(1, 1e4), st.sampled_from([0.25, 0.5, 1.0, 2.0, 8.0])), min_size=1, max_size=20
)


def calm(devices: int, **changed: float | None) -> SimulatedCluster:
    """On which nothing fails unless that is asked for."""
    return SimulatedCluster(devices, **{"failure_hours": NEVER, **changed})  # type: ignore[arg-type]


def test_groups_that_need_all_follow_each_other() -> None:
    found = simulate([SimulatedGroup(100.0, 8)] * 3, calm(8, price_per_hour=2.0))
    assert found.seconds == pytest.approx(3 * (100 + START_SECONDS))
    assert found.utilisation == pytest.approx(100 / (100 + START_SECONDS))
    assert found.money == pytest.approx(found.seconds / 3600 * 8 * 2)
    assert found.losses == 0


def test_parts_of_a_device_share_it_and_a_chain_waits() -> None:
    assert simulate([SimulatedGroup(100.0, 0.25)] * 4, calm(1)).seconds == pytest.approx(100 + START_SECONDS)
    chain = [SimulatedGroup(100.0, 1), SimulatedGroup(50.0, 1, after=0)]
    found = simulate(chain, calm(8))
    assert found.seconds == pytest.approx(150 + 2 * START_SECONDS)
    assert found.longest_seconds == 150


@given(GROUPS, st.sampled_from([8, 16, 24]), st.sampled_from([None, 0.5, 5.0]))
def test_no_schedule_beats_its_bounds_and_all_is_trained(
    groups: list[SimulatedGroup], devices: int, preempted_hours: float | None
) -> None:
    found = simulate(groups, calm(devices, preempted_hours=preempted_hours))
    work = sum(group.seconds * group.devices for group in groups)
    assert found.seconds >= max(found.longest_seconds, work / devices)
    assert 0 < found.utilisation <= 1
    calmer = simulate(groups, calm(devices))
    assert calmer.lost_seconds == pytest.approx(START_SECONDS * sum(group.devices for group in groups))


def test_a_thousand_trials_keep_64_devices_at_work_nine_tenths_of_the_time() -> None:
    draw = random.Random(0)
    groups = [SimulatedGroup(draw.uniform(600, 1800), 1) for _ in range(1000)]
    longest_first = sorted(groups, key=lambda group: -group.seconds)
    found = simulate(longest_first, SimulatedCluster(64))
    assert found.utilisation >= 0.9
    shaken = simulate(longest_first, SimulatedCluster(64, preempted_hours=6.0))
    assert shaken.losses > 10
    assert shaken.utilisation < found.utilisation


def test_losses_cost_at_most_what_lies_behind_the_last_checkpoint() -> None:
    groups = [SimulatedGroup(7200.0, 8)]
    found = simulate(groups, calm(8, preempted_hours=1.0, checkpoint_seconds=0.0))
    starts = found.lost_seconds / 8 / START_SECONDS
    assert starts == pytest.approx(1 + found.losses)
    assert simulate(groups, calm(8, preempted_hours=1.0, checkpoint_seconds=3600.0)).lost_seconds > found.lost_seconds


def test_a_small_group_goes_past_one_that_has_no_room() -> None:
    groups = [SimulatedGroup(100.0, 0.5), SimulatedGroup(100.0, 1), SimulatedGroup(100.0, 0.5)]
    assert simulate(groups, calm(1)).seconds == pytest.approx(2 * (100 + START_SECONDS))


def test_a_group_larger_than_a_node_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 16 devices; a node has 8"):
        simulate([SimulatedGroup(1.0, 16)], calm(64))
