"""The small files of a run: read as they were written, and named where they are something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowregret.errors import RecordsError
from lowregret.runs.atomic import write_json
from lowregret.runs.measured import (
    ExpertFacts,
    read_experts,
    read_forgetting,
    read_priors,
    read_store,
    read_timings,
    tracking_id,
)
from lowregret.runs.study import base_facts, quantised_starts

TIMING = {
    "width": 64,
    "full_seconds": [1.0, 1.1],
    "lora_seconds": {"4": [0.5, 0.6]},
    "theory": {"4": 0.6},
    "full_bytes": 1000,
    "lora_bytes": {"4": 500},
}


def test_what_is_there_is_read_and_what_is_not_is_nothing(tmp_path: Path) -> None:
    nothing = (read_priors(tmp_path), read_forgetting(tmp_path), read_experts(tmp_path), read_timings(tmp_path))
    assert nothing == ({}, None, {}, ())
    assert read_store(tmp_path) is None
    write_json(tmp_path / "priors.json", {"full": 1e-4, "lora:4": 1e-3})
    write_json(tmp_path / "forgetting.json", {"test_nll": 1.5})
    write_json(tmp_path / "experts.json", {"layer": {"untrained": [1], "pairs": [3, 0], "reached": [2, 0]}})
    write_json(tmp_path / "store.json", {"store": "s3://bucket/one"})
    assert read_priors(tmp_path) == {"full": 1e-4, "lora:4": 1e-3}
    assert read_forgetting(tmp_path) == 1.5
    assert read_experts(tmp_path) == {"layer": ExpertFacts(untrained=(1,), pairs=(3, 0), reached=(2, 0))}
    assert read_store(tmp_path) == "s3://bucket/one"
    assert tracking_id(tmp_path) == tracking_id(tmp_path)


def test_a_loss_that_was_no_number_is_none(tmp_path: Path) -> None:
    write_json(tmp_path / "forgetting.json", {"test_nll": float("nan")})
    assert read_forgetting(tmp_path) is None


@pytest.mark.parametrize(
    ("read", "name", "content", "words"),
    [
        (read_priors, "priors.json", [1e-4], "field 'priors'"),
        (read_priors, "priors.json", {"full": "x"}, "field 'priors.full'"),
        (read_priors, "priors.json", {"full": -1}, "field 'priors.full'"),
        (read_priors, "priors.json", {"full": None}, "field 'priors.full'"),
        (read_forgetting, "forgetting.json", {}, "field 'test_nll'"),
        (read_forgetting, "forgetting.json", {"test_nll": [1]}, "field 'test_nll'"),
        (read_experts, "experts.json", {"layer": {"pairs": [1]}}, "field 'modules.layer.untrained'"),
        (read_experts, "experts.json", [], "field 'modules'"),
        (read_store, "store.json", [], "valid dictionary"),
        (read_store, "store.json", {"store": 5}, "field 'store'"),
        (tracking_id, "tracking.json", {}, "field 'id'"),
        (tracking_id, "tracking.json", {"id": None}, "field 'id'"),
        (base_facts, "base.json", {"hidden_size": -1}, "field 'hidden_size"),
        (base_facts, "base.json", ["x"], "valid dictionary"),
        (quantised_starts, "base.json", {"quantised": {"nf4": {}}}, "field 'quantised.nf4.test_nll'"),
        (read_timings, "width-00064.json", TIMING | {"full_seconds": []}, "field 'full_seconds'"),
        (read_timings, "width-00064.json", TIMING | {"full_seconds": [0.0, 1.0]}, "field 'full_seconds.0'"),
        (read_timings, "width-00064.json", TIMING | {"lora_seconds": {"4": [1.0]}}, "lora_seconds.4 has not the 2"),
        (read_timings, "width-00064.json", TIMING | {"lora_seconds": {"x": [1.0, 2.0]}}, "field 'lora_seconds.x"),
        (read_timings, "width-00064.json", TIMING | {"theory": {}}, "theory lacks the rank 4"),
    ],
)
def test_what_is_something_else_is_named_with_the_remedy(
    tmp_path: Path, read: Callable[[Path], Any], name: str, content: Any, words: str
) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(RecordsError) as told:
        read(tmp_path)
    assert str(told.value).startswith(f"{tmp_path / name}: ")
    assert words in str(told.value)
    assert "Delete" in str(told.value)
