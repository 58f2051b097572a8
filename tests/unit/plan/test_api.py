"""The plan as a function of names and files."""

from __future__ import annotations

import pytest

import lowregret
from lowregret.errors import SpecError
from lowregret.plan.api import make_plan
from lowregret.plan.plan import Plan
from lowregret.plan.shapes.adapters import lora_parameters
from lowregret.plan.shapes.lookup import find_model


def test_a_name_and_a_source_make_a_plan() -> None:
    found = make_plan("tiny", "builtin:arithmetic:size=32", method="lora:4", batch_size=4)
    assert isinstance(found, Plan)
    assert sum(lora_parameters(find_model("tiny"), 4).values()) == found.lora.trainable


def test_it_is_the_public_function() -> None:
    assert lowregret.make_plan is make_plan


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"unknown option 'batchsize'.*Did you mean 'batch_size'"):
        make_plan("tiny", batchsize=4)
    with pytest.raises(SpecError, match=r"--objective 'sfft'"):
        make_plan("tiny", objective="sfft")
