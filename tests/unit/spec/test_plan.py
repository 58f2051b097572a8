"""What may be fixed of a plan: what the help says about bounds is what is held, and errors name the flag."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowregret.errors import SpecError
from lowregret.spec import AdamW, LoRA, build
from lowregret.spec.keys import keys
from lowregret.spec.plan import PlanSpec

OUTSIDE = {"1 or more": 0, "2 or more": 1, "above 0": 0, "0 or more": -1}
"""By the lower bound."""


def test_every_bound_of_the_help_is_held_and_its_error_names_the_flag() -> None:
    bounded = [key for key in keys(PlanSpec) if key.bounds]
    assert len(bounded) >= 10
    for key in bounded:
        outside = OUTSIDE[key.bounds.partition(",")[0]]
        with pytest.raises(SpecError, match=rf"^{key.option} {outside}: must be .*\.$"):
            build(PlanSpec, {key.path: outside})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"batch_size": 0}, "--batch-size 0: must be 1 or more, at most 1,000,000."),
        ({"batch_size": -12345678}, "--batch-size -12345678: must be 1 or more, at most 1,000,000."),
        ({"max_length": 1}, "--max-length 1: must be 2 or more, at most 20,000,000."),
        ({"epochs": float("nan")}, "--epochs nan: must be above 0, at most 100,000."),
        ({"learning_rate": float("inf")}, "--learning-rate inf: must be above 0, below 1000."),
        ({"price": -2.0}, "--price -2: must be from 0 to 1,000,000,000, per hour and device."),
        ({"price": float("nan")}, "--price nan: must be from 0 to 1,000,000,000, per hour and device."),
        (
            {"objective": "rl", "pass_rate": -0.125},
            "--pass-rate -0.125: must be a share from 0 to 1, such as 0.3.",
        ),
        ({"epochs": 1.0, "steps": 3}, "give --epochs or --steps, not both."),
        (
            {"prompt_field": "x"},
            "--prompt-field and --completion-field go together: name both or neither.",
        ),
        (
            {"pass_rate": 0.5},
            "--pass-rate is of use with --objective rl only. Leave it out, or add --objective rl.",
        ),
        ({"objective": "rll"}, "--objective 'rll': Did you mean 'rl'? Valid: rl, sft."),
        (
            {"method": "lroa:3"},
            "--method: unknown method 'lroa:3': use full, lora:RANK or lora:RANK:TARGETS, such as lora:16:mlp.",
        ),
        ({"method": "lora:0"}, "rank: should be greater than or equal to 1 (got 0)."),
        (
            {"method": {"kind": "lora", "rank": 0}},
            "--method.lora.rank 0: should be greater than or equal to 1.",
        ),
        ({"steps": "few"}, "--steps 'few': should be a valid integer, unable to parse string as an integer."),
        (
            {"devices": 0, "batch_size": 0},
            "--devices 0: must be 1 or more, at most 100,000.\n--batch-size 0: must be 1 or more, at most 1,000,000.",
        ),
    ],
)
def test_a_mistake_is_told_as_the_command_line_has_it(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError) as told:
        build(PlanSpec, wrong)
    assert str(told.value) == words


def test_a_method_is_one_or_its_spelling() -> None:
    assert build(PlanSpec, {"method": "lora:8:mlp"}).method == LoRA(rank=8, targets=("mlp",))
    assert PlanSpec(method=LoRA(rank=8)).method == LoRA(rank=8)


def test_a_folder_is_its_name() -> None:
    assert build(PlanSpec, {"pilot": Path("runs/one")}).pilot == "runs/one"


def test_what_only_python_gives_is_no_key() -> None:
    assert PlanSpec().optimizer == AdamW()
    assert not [key for key in keys(PlanSpec) if key.path.startswith("optimizer")]
    assert "alpha" not in {key.flag for key in keys(PlanSpec)}
