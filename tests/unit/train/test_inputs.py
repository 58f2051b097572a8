"""What a run is made of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lowregret.spec import CompareSpec, build
from lowregret.train import inputs
from lowregret.train.rl.problems import Problems


@pytest.mark.parametrize(("quantisation", "apart"), [("none", True), ("nf4", False)])
def test_loras_on_a_quantised_base_are_held_to_that_base(
    quantisation: str, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a KL penalty: the copy of the base that is the reference beside a FullFT is not quantised."""
    objective = {"kind": "rl", "task": "arithmetic", "kl": 0.1}
    asked = {"model": "tiny", "data": {"train": "builtin:arithmetic"}, "objective": objective}
    spec = build(CompareSpec, {**asked, "methods": ["lora:4:nf4", "full"]})
    monkeypatch.setattr(inputs, "make_engine", lambda *_: "another")
    run: Any = SimpleNamespace(spec=spec, source=None, data=Problems((), ()), identity="")
    engine: Any = SimpleNamespace(base=SimpleNamespace(quantisation=quantisation))
    found: Any = inputs.make_workload(run, engine, grader=SimpleNamespace())  # type: ignore[arg-type]
    assert found.reference == ("another" if apart else None)
