"""What a session of a comparison leaves of its pilots."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lowregret.spec import CompareSpec, TrialSpec
from lowregret.study import opened as module
from lowregret.study.observer import Silent
from lowregret.study.opened import OpenedComparison

SPEC = CompareSpec.model_validate({"model": "tiny", "data": {"train": "builtin:arithmetic"}, "steps": 20})
TRIAL = TrialSpec(method=SPEC.methods[0], learning_rate=1e-3)


@pytest.mark.parametrize(
    ("asked", "ends"),
    [({}, True), ({"until": 4}, False), ({"only": [TRIAL]}, False), ({"only": [], "until": 4}, False)],
)
def test_only_a_whole_comparison_ends_the_pilots_that_it_did_not_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], ends: bool
) -> None:
    done: list[str] = []
    scheduler = SimpleNamespace(run=lambda *_: done.append("run"), put_aside=lambda: done.append("put aside"))
    monkeypatch.setattr(module, "Scheduler", lambda *_, **__: scheduler)
    inputs: Any = SimpleNamespace(identity="", data=None)
    resources: Any = None
    comparison = OpenedComparison(SPEC, tmp_path, inputs, {}, resources, Silent(), {}, lambda: False)
    comparison.train(**asked)
    assert done == ["run", *(["put aside"] if ends else [])]
