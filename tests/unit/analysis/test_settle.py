"""What would settle a verdict: the fewest seeds or examples that do, what they take, and the command."""

from __future__ import annotations

import numpy as np
import pytest

from lowregret.analysis.comparison import Measured, measure
from lowregret.analysis.interval import Interval, paired_difference
from lowregret.analysis.numbers import LOSS, REWARD
from lowregret.analysis.settle import comparing_command, sentence, settle, settling_command
from lowregret.runs.records import TrialRecord
from lowregret.runs.verdict import Settling, SettlingOption
from lowregret.spec import FullFT, LoRA, TrialSpec

EXAMPLES = 200


@pytest.fixture(scope="module")
def noisy() -> Interval:
    rng = np.random.default_rng(0)
    tokens = np.full(EXAMPLES, 5)
    values = 5 * (rng.normal(size=(1, EXAMPLES)) * 0.05 + rng.normal(size=(3, 1)) * 0.004)
    return paired_difference(values, np.zeros_like(values), tokens)


def side(method: FullFT | LoRA, seconds: float, evaluation: float, seeds: int = 3) -> Measured:
    records = []
    for seed in range(seeds):
        trial = TrialSpec(method=method, learning_rate=1e-3, seed=seed)
        records.append(
            TrialRecord(
                id=trial.id, method=method.name, learning_rate=1e-3, seed=seed, status="finished", spec=trial,
                test_nll=1.0, seconds=seconds, evaluation_seconds=evaluation,
            )
        )  # fmt: skip
    return measure(method, records)


BOTH = (side(LoRA(rank=4), 10.0, 0.5), side(FullFT(), 20.0, 1.0))


@pytest.mark.parametrize("share", [0.9, 0.6, 0.4, 0.3])
def test_what_is_advised_would_suffice_and_less_would_not(noisy: Interval, share: float) -> None:
    gap = share * noisy.half_width
    found = settle(noisy, noisy.value + gap, BOTH, None)
    assert found.options
    for option in found.options:
        examples, seeds = option.examples or EXAMPLES, option.seeds or 3
        assert noisy.resized(examples, seeds).half_width < gap
        if option.seeds is None:
            assert noisy.resized(examples - 1, seeds).half_width >= gap
        if option.examples is None:
            assert noisy.resized(examples, seeds - 1).half_width >= gap


def test_nothing_settles_a_regret_at_the_tolerance(noisy: Interval) -> None:
    found = settle(noisy, noisy.value, BOTH, None)
    assert found == Settling(options=())
    assert "no affordable number" in sentence(found, noisy, LOSS)


def of_examples_alone(gap: float) -> Interval:
    """Seeds that agree: the half width is that of the examples, and goes as 1/√n."""
    return Interval(0.0, -1.0, 1.0, 99.0, (1.0 / 1.984217) ** 2, 1e-12, 100, 2)


def test_the_number_of_examples_is_the_one_worked_out_by_hand() -> None:
    """Half width 1 with 100: it is under 1/2 from about 400 on, a little earlier for the smaller t quantile."""
    found = settle(of_examples_alone(1.0), 0.5, BOTH, None, can_grow=True)
    (option,) = (each for each in found.options if each.seeds is None)
    assert option.examples is not None
    assert 390 <= option.examples <= 400


def test_times_are_those_of_the_trials() -> None:
    interval = of_examples_alone(1.0)
    (examples,) = (o for o in settle(interval, 0.5, BOTH, None).options if o.seeds is None)
    assert examples.examples is not None
    growth = examples.examples / 100
    lora = 3 * growth * 0.5
    full = growth * 1.0 + 2 * (20.0 + (growth - 1) * 1.0)  # one is evaluated, two are trained again
    assert examples.seconds == pytest.approx(lora + full)


def test_more_seeds_take_each_methods_trial_time() -> None:
    """Two seeds, half width 1: with n it is t(2(n − 1)) / t(2) · √(2/n), 0.527 with three and 0.402 with four seeds;
    60 s are 2 · (10 + 20)."""
    interval = Interval(0.0, -1.0, 1.0, 2.0, 1e-12, (1.0 / 4.30265) ** 2, 100, 2)
    (option,) = settle(interval, 0.45, BOTH, EXAMPLES).options
    assert option == SettlingOption(seeds=4, seconds=60.0)


def test_a_time_that_was_not_measured_is_not_said() -> None:
    untimed = (side(LoRA(rank=4), 10.0, 0.0), side(FullFT(), 20.0, 0.0))
    interval = of_examples_alone(1.0)
    (option,) = (o for o in settle(interval, 0.5, untimed, None).options if o.seeds is None)
    assert option.seconds is None
    assert "about" not in sentence(Settling(options=(option,)), interval, LOSS)


@pytest.mark.parametrize(("held_out", "can_grow"), [(300, True), (None, False)])
def test_more_than_there_is_takes_a_new_folder(held_out: int | None, can_grow: bool) -> None:
    interval = of_examples_alone(1.0)
    found = settle(interval, 0.5, BOTH, held_out, can_grow=can_grow)
    assert all((option.examples or 0) <= (held_out or 100) for option in found.options)
    assert found.examples_beyond is not None
    assert found.examples_beyond > (held_out or 100)
    assert "new folder" in sentence(found, interval, LOSS if can_grow else REWARD)


def test_the_sentence_names_flag_number_and_time() -> None:
    interval = of_examples_alone(1.0)
    options = (SettlingOption(seeds=6, seconds=1200.0), SettlingOption(examples=612, seconds=200.0))
    said = sentence(Settling(options=options), interval, LOSS)
    assert (
        "4 more seeds (--seeds 6, about 20 min), or 512 more held-out examples (--max-eval 612, about 3.3 min)" in said
    )


@pytest.mark.parametrize(
    "command",
    [
        "lowregret compare --model tiny --data 'my rows.jsonl'",
        "lowregret compare --model tiny --seeds 3 --data 'my rows.jsonl' --out elsewhere",
        "lowregret compare --model tiny --seeds=3 --data 'my rows.jsonl' --out=elsewhere",
    ],
)
def test_the_command_is_the_same_with_what_is_asked_for(command: str) -> None:
    assert settling_command(command, "runs/mine", SettlingOption(seeds=7)) == (
        "lowregret compare --model tiny --data 'my rows.jsonl' --out runs/mine --seeds 7"
    )


@pytest.mark.parametrize(
    ("command", "decided", "found"),
    [
        ("lowregret forecast --budget 10% --model tiny --bank 'my bank' --out x", None, "compare --model tiny --out x"),
        ("lowregret forecast --model tiny --budget=10% --out forecast", True, "compare --model tiny --out forecast"),
        ("lowregret compare --until-decided --out 'a b'", False, "compare --out 'a b'"),
        ("lowregret compare --until-decided --out x", True, "compare --until-decided --out x"),
        ("lowregret compare --until-decided --out x", None, "compare --until-decided --out x"),
        ("lowregret compare --out x", None, "compare --out x"),
        ("lowregret compare --out 'x", True, "compare --out 'x"),
    ],
)
def test_the_command_that_makes_a_comparison_is_never_that_of_its_pilots(
    command: str, decided: bool | None, found: str
) -> None:
    added = " --until-decided" if decided and "forecast" in command else ""
    assert comparing_command(command, decided=decided) == f"lowregret {found}{added}"


def test_in_python_it_is_the_call_that_compares() -> None:
    assert comparing_command("lowregret.forecast_regret(...)") == "lowregret.compare(...)"
    assert comparing_command("lowregret.compare(...)", decided=True) == "lowregret.compare(...)"


def test_where_the_rates_between_those_tried_are_in_the_way_that_is_said() -> None:
    """Three seeds; a standard error of 0.1 that no seed reduces, and the tolerance 0.15 away."""
    interval = Interval(0.0, 0.0, 0.0, 1.0, 1e-6, 1e-3, 20, 3, rate_variance=1e-2).resized(20, 3)
    found = settle(interval, 0.15, BOTH, held_out=20)
    assert found == Settling(options=(), rates_in_the_way=True)
    assert "--learning-rates" in sentence(found, interval, LOSS)
    near = settle(interval, 0.01, BOTH, held_out=20)
    assert near == Settling(options=())
    assert "no affordable number" in sentence(near, interval, LOSS)
