"""What a comparison takes is told of its own rows, and of what its folder lacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lowregret.plan.price import JUDGING, SAMPLING, TRAINING, Price
from lowregret.plan.resources.hardware import find_hardware
from lowregret.runs.atomic import make_folder, write_json
from lowregret.runs.files import METRICS, TRIAL
from lowregret.runs.metrics import append_metric
from lowregret.runs.records import Metric, TrialRecord
from lowregret.spec import CompareSpec, FullFT, LoRA, TrialSpec, build
from lowregret.study import price as module
from lowregret.study.needs import USUAL_CPU
from lowregret.study.price import comparison_price, together
from lowregret.study.search import total_estimate
from lowregret.train.inputs import RunInputs, open_inputs
from lowregret.train.price import Wanted, price_of

MACHINE = replace(find_hardware("H100"), price_per_hour=3.6)
ROWS = {"train": "builtin:arithmetic:size=64,test_size=32"}


def opened(**fields: Any) -> tuple[CompareSpec, RunInputs]:
    data = {} if "objective" in fields else {"data": ROWS | fields.pop("data", {})}
    spec = build(CompareSpec, {"model": "tiny", "steps": 40, **data, **fields})
    return spec, open_inputs(spec, lambda line: None)


@pytest.fixture(autouse=True)
def a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "hardware_of", lambda device: MACHINE)


def parts(price: Price, method: str = "lora:16") -> dict[str, float]:
    (found,) = (each for each in price.methods if each.method == method)
    return dict(found.parts)


def ended(folder: Path, trial: TrialSpec, status: Any = "finished", steps: int = 40) -> None:
    home = make_folder(folder / "trials" / trial.id) or folder / "trials" / trial.id
    write_json(home / TRIAL, TrialRecord.of(trial, status=status, test_nll=1.0, steps=steps))
    for step in range(1, steps + 1):
        append_metric(home / METRICS, Metric(step=step, tokens=step, seconds=float(step)))


def test_a_comparison_takes_what_the_search_expects_of_it(tmp_path: Path) -> None:
    spec, inputs = opened()
    found = comparison_price(spec, inputs, tmp_path)
    assert found.trials == total_estimate(spec, []) == 16
    assert [each.full_trials for each in found.methods] == [pytest.approx(8 - 0.15 * 6)] * 2
    assert all(parts(found, name)[part] > 0 for name in ("lora:16", "full") for part in (TRAINING, JUDGING))
    assert found.memory_bytes is not None
    assert found.free_bytes is not None
    assert found.free_bytes > found.disk_bytes > 4 * 1_000_000
    seconds = found.seconds or 0.0
    assert found.paid(seconds) in found.lines()[0]


def test_what_a_folder_has_is_not_paid_for_again(tmp_path: Path) -> None:
    spec, inputs = opened(learning_rates=[1e-3, 2e-3], seeds=2, prune=None)
    assert comparison_price(spec, inputs, tmp_path).trials == 6
    for rate in (1e-3, 2e-3):
        ended(tmp_path, TrialSpec(method=LoRA(rank=16), learning_rate=rate, seed=0))
    ended(tmp_path, TrialSpec(method=FullFT(), learning_rate=1e-3, seed=0), status="running", steps=10)
    ended(tmp_path, TrialSpec(method=FullFT(), learning_rate=2e-3, seed=0), status="failed")
    left = {each.method: (each.trials, each.full_trials) for each in comparison_price(spec, inputs, tmp_path).methods}
    assert left == {"lora:16": (1, 1.0), "full": (3, 2.75)}
    for rate, seed in ((1e-3, 0), (2e-3, 0), (1e-3, 1)):
        ended(tmp_path, TrialSpec(method=FullFT(), learning_rate=rate, seed=seed))
    ended(tmp_path, TrialSpec(method=LoRA(rank=16), learning_rate=1e-3, seed=1))
    assert comparison_price(spec, inputs, tmp_path).lines() == []


def test_pilots_are_a_part_of_one_seed(tmp_path: Path) -> None:
    spec, inputs = opened(evals=[4, 8, 40])
    whole, pilots = comparison_price(spec, inputs, tmp_path), comparison_price(spec, inputs, tmp_path, until=8)
    assert pilots.trials == 12
    assert parts(pilots)[TRAINING] == pytest.approx(parts(whole)[TRAINING] / 5)
    assert parts(pilots)[JUDGING] == pytest.approx(parts(whole)[JUDGING] * 2 / 3)


def test_every_pilot_of_full_fine_tuning_keeps_a_checkpoint_of_twelve_bytes_a_parameter(tmp_path: Path) -> None:
    spec, inputs = opened(evals=[4, 8, 40], methods=["full", "lora:1"])
    decided = spec.model_copy(update={"until_decided": True})
    whole, pilots = comparison_price(spec, inputs, tmp_path), comparison_price(spec, inputs, tmp_path, until=8)
    searched = pilots.trials // 2
    numbers = {"full": 984_448, "lora:1": 11_392}
    states = sum(searched * 12 * each for each in numbers.values())
    assert states <= pilots.disk_bytes - whole.disk_bytes < 1.1 * states
    assert comparison_price(decided, inputs, tmp_path).disk_bytes == pilots.disk_bytes


def test_evaluations_that_dominate_are_named_with_a_number_that_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "hardware_of", lambda device: USUAL_CPU)
    spec, inputs = opened(data={"max_eval": 32}, batch_size=1, steps=20)
    found = comparison_price(spec, inputs, tmp_path)
    assert found.shares[JUDGING] > 0.5
    (line,) = (line for line in found.lines() if JUDGING in line)
    fewer = int(line.rpartition("try --max-eval ")[2])
    spec, inputs = opened(data={"max_eval": fewer}, batch_size=1, steps=20)
    assert comparison_price(spec, inputs, tmp_path).shares[JUDGING] < 0.5


def test_with_rewards_sampling_is_counted_to_its_longest(tmp_path: Path) -> None:
    task = {"kind": "rl", "task": "builtin:arithmetic:size=64,test_size=8", "group_size": 4, "max_tokens": 32}
    spec, inputs = opened(objective=task)
    short = comparison_price(spec, inputs, tmp_path)
    spec, inputs = opened(objective=task | {"max_tokens": 64})
    long = comparison_price(spec, inputs, tmp_path)
    assert parts(long)[SAMPLING] == pytest.approx(2 * parts(short)[SAMPLING], rel=0.2)
    assert ", up to " in short.lines()[0]


def test_a_step_by_reward_draws_once_however_many_updates_it_takes(tmp_path: Path) -> None:
    task = {"kind": "rl", "task": "builtin:arithmetic:size=64,test_size=8", "group_size": 4, "max_tokens": 32}
    once, often = (
        parts(comparison_price(*opened(objective=task | {"updates": updates}), tmp_path)) for updates in (1, 4)
    )
    assert often[SAMPLING] == once[SAMPLING]
    assert often[JUDGING] == once[JUDGING]
    assert once[TRAINING] <= often[TRAINING] <= 4 * once[TRAINING], "all samples are learnt from, in four steps"


def test_on_a_device_that_is_not_known_the_trials_are_counted(tmp_path: Path) -> None:
    spec, inputs = opened()
    found = price_of(inputs, [Wanted(spec.methods[0], 3, 3.0)], None, tmp_path)
    assert found.seconds is None
    assert found.lines()[0].startswith("price: about 3 trials, time known once the first steps are timed, ")


def test_groups_side_by_side_share_the_time_and_add_up_their_memory(tmp_path: Path) -> None:
    spec, inputs = opened()
    one = comparison_price(spec, inputs, tmp_path)
    both = together([one, one], 2)
    assert both.seconds == pytest.approx(one.seconds)
    assert both.memory_bytes == 2 * (one.memory_bytes or 0)
    assert both.disk_bytes == 2 * one.disk_bytes
    assert both.trials == 2 * one.trials
