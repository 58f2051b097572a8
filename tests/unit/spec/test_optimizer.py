"""The optimizer of a spec: AdamW unless another is named, and not written down while it is the default."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, ClassVar, Literal

import pytest
from pydantic import TypeAdapter, ValidationError

from lowregret.errors import SpecError
from lowregret.spec import AdamW, TrainingSpec, build
from lowregret.spec.optimizer import TABLES, OptimizerSpec, _union

MINIMAL: dict[str, Any] = {"model": "tiny", "data": {"train": "a.jsonl"}}


def test_a_table_without_a_kind_is_adamw_as_ever() -> None:
    spec = build(TrainingSpec, {**MINIMAL, "optimizer": {"beta1": 0.8, "schedule": "cosine"}})
    assert spec.optimizer == AdamW(beta1=0.8, schedule="cosine")
    assert spec.optimizer.name == "adamw"
    assert build(TrainingSpec, {**MINIMAL, "optimizer": {"kind": "adamw"}}) == build(TrainingSpec, MINIMAL)


def test_records_have_the_bytes_that_they_always_had() -> None:
    assert AdamW().model_dump_json() == (
        '{"beta1":0.9,"beta2":0.95,"eps":1e-8,"weight_decay":0.0,"clip_norm":null,"schedule":"constant",'
        '"warmup_steps":0,"decay_fraction":0.33}'
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"beta3": 1}, r"unknown key 'optimizer\.(adamw\.)?beta3'"),
        ({"kind": "adamv"}, r"optimizer.*kind.*should be .*adamw.*adamv"),
        ({"decay_fraction": 0.5}, "decay_fraction is of use with the schedule wsd only"),
    ],
)
def test_a_table_that_asks_for_what_there_is_not(table: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build(TrainingSpec, {**MINIMAL, "optimizer": table})


def test_what_adamw_keeps() -> None:
    assert (AdamW.bytes_per_parameter(), AdamW.state_bytes(), AdamW.step_traffic()) == (16, 8, 28)
    assert AdamW.state_shapes((3, 5)) == {"step": (), "exp_avg": (3, 5), "exp_avg_sq": (3, 5)}


class Other(OptimizerSpec):
    """With one number of state for each that trains."""

    STATE: ClassVar[Any] = {"momentum": "weight"}
    kind: Literal["other"] = "other"


def test_a_second_optimizer_is_told_apart_by_its_kind() -> None:
    """What becomes of the union once there are two."""
    both = TypeAdapter(_union({**TABLES, "other": Other}))
    assert both.validate_python({"beta2": 0.99}) == AdamW(beta2=0.99)
    other = both.validate_python({"kind": "other", "clip_norm": 1.0})
    assert other == Other(clip_norm=1.0)
    assert both.validate_python(other) is other
    assert both.validate_json(other.model_dump_json()) == other
    assert "kind" not in both.validate_python({}).model_dump_json()
    assert Other.bytes_per_parameter() == 12
    with pytest.raises(ValidationError, match="kind should be one of adamw, other"):
        both.validate_python({"kind": "adamv"})


def test_what_is_declared_is_read_without_torch() -> None:
    code = "import sys, lowregret.spec.optimizer as o; o.AdamW.bytes_per_parameter(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
