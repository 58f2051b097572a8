"""Where a search starts, for whatever transformers can load."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
import transformers

from lowregret.plan.rates.recommend import recommend
from lowregret.spec import FullFT
from lowregret.train.prior import shapes_from


def test_the_shapes_are_the_bases_own(bases: ModuleType, architecture: str) -> None:
    shapes = shapes_from(bases.small_config(architecture), "a base")
    assert shapes.total == sum(weight.numel() for weight in bases.small_model(architecture).parameters())


@pytest.mark.parametrize("make", [transformers.BloomConfig, transformers.GPTJConfig, transformers.MptConfig])
def test_an_architecture_that_the_plan_cannot_lay_out_gets_an_estimate_and_a_prior(
    make: type[transformers.PretrainedConfig],
) -> None:
    config = make()
    shapes = shapes_from(config, "a base")
    with torch.device("meta"):
        real = sum(w.numel() for w in transformers.AutoModelForCausalLM.from_config(config).parameters())
    assert real / 1.5 < shapes.total < real * 1.5
    assert "Estimated" in shapes.notes[0]
    assert recommend(FullFT(), shapes, batch_size=8, steps=100).value > 0
