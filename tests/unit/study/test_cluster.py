"""A study on a cluster that is not there, and what groups need."""

from __future__ import annotations

import math

import pytest

from lowregret.cli.cluster import show_simulation
from lowregret.errors import SpecError
from lowregret.plan.resources.hardware import find_hardware
from lowregret.questions.registry import make_question
from lowregret.study.cluster import parse_cluster, simulate_study
from lowregret.study.needs import Machines, group_cost, spread

H100 = Machines(True, find_hardware("H100 SXM"))
LORA, FULL = (group for group in make_question({"kind": "learning-rate"}).groups())


def test_a_small_base_asks_for_a_cpu_and_for_a_part_of_a_gpu() -> None:
    on_cpu = group_cost(LORA, Machines()).needs
    assert (on_cpu.cpus, on_cpu.gpus) == (1, 0)
    assert 4e8 < on_cpu.memory_bytes < 2e9
    assert group_cost(LORA, H100).needs.gpus == 0.125
    assert group_cost(LORA, Machines(gpus=True)).needs.gpus == 1, "of a GPU of unknown kind all"


def test_what_does_not_fit_on_one_gpu_gets_as_many_as_hold_it() -> None:
    large = FULL.model_copy(update={"model": "Qwen/Qwen3-8B"})
    assert not group_cost(large, H100).fits
    assert spread([large], H100, 8) == [2]
    assert spread([large.model_copy(update={"devices": 4})], H100, 8) == [4], "the user's word stands"
    assert group_cost(large.model_copy(update={"devices": 4}), H100).needs.gpus == 4


def test_an_unknown_base_is_no_error() -> None:
    cost = group_cost(LORA.model_copy(update={"model": "nobody/knows"}), H100)
    assert (cost.needs.gpus, cost.seconds) == (1, 0)


def test_a_study_is_faster_on_more_devices_until_its_longest_group_decides() -> None:
    found = simulate_study("all", "8xH100", models=["Qwen/Qwen3-8B"])
    assert [each.devices for each in found] == [8, 4, 2]  # full fine-tuning of 8 B does not fit on 1
    seconds = [each.simulation.seconds for each in found]
    assert seconds == sorted(seconds)
    assert all(each.simulation.seconds >= each.longest.cost.seconds for each in found)
    assert found[1].simulation.utilisation > 0.85
    assert found[0].as_dict()["trials"] == found[0].trials > 600


def test_what_is_said_of_the_longest_group_is_so_of_larger_clusters(capsys: pytest.CaptureFixture[str]) -> None:
    small, large = (simulate_study("all", name, models=["Qwen/Qwen3-8B"]) for name in ("2xH100", "64xH100"))
    assert large[0].simulation.seconds < small[0].longest.cost.seconds, "which has more devices there"
    show_simulation("all", small)
    assert "unless a larger cluster gives that group more devices" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["64", "H100", "0xH100", "x", "1e9xH100", "8xnothing", "8xcpu"])
def test_a_cluster_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_cluster(text)


def test_what_cannot_be_placed_is_told() -> None:
    with pytest.raises(SpecError, match="fits on no node of 1"):
        simulate_study("learning-rate", "1xT4", models=["Qwen/Qwen3-8B"])
    with pytest.raises(SpecError, match="trains no groups"):
        simulate_study("compute", "8xH100")
    with pytest.raises(SpecError, match="Did you mean 'rank'"):
        simulate_study("rnak", "8xH100")


@pytest.mark.parametrize("hours", [0.0, -1.0, 1e-3, math.nan, math.inf])
def test_nodes_on_which_nothing_would_ever_be_done_are_refused(hours: float) -> None:
    with pytest.raises(SpecError, match=r"--preempted-hours .*: must be 0.05 or more and at most 1,000,000,000, "):
        simulate_study("rank", "8xH100", preempted_hours=hours)
