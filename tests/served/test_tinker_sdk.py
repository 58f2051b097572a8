"""Tinker's own SDK, unmodified, against a server: the same numbers as the engine alone, whatever it speaks."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowregret.engine import AdamParams, Engine
from lowregret.models.load import load_base, resolve
from lowregret.serve.tinker.passing import pass_all, score_all
from lowregret.serve.tinker.tensors import Datum, Passing
from lowregret.serve.tinker.work import Score
from lowregret.spec import LoRA
from serving import Running, running

PYTHONS = [python for python in os.environ.get("LOWREGRET_TEST_TINKER", "").split(os.pathsep) if python]
pytestmark = pytest.mark.skipif(not PYTHONS, reason="LOWREGRET_TEST_TINKER names no Pythons that have Tinker's SDK")
KEY = "tml-tests"
PROMPT = [5, 9, 200, 31]


def rows() -> list[list[list[int]]]:
    random = np.random.default_rng(0)
    return [[random.integers(3, 1000, length).tolist() for length in (4, 9, 15)] for _ in range(3)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running("tiny", tinker=tmp_path_factory.mktemp("tinker"), key=KEY) as found:
        yield found


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """What the engine says of the same training."""
    engine = Engine(load_base(resolve("tiny")))
    engine.add_policy("a", LoRA(rank=8), 0)
    losses = []
    for own in rows():
        data = [Datum(np.array(row), {"target_tokens": np.array([*row[1:], 0])}) for row in own]
        passed = pass_all(engine, {"a": Passing("a", None, "cross_entropy", {}, data, forward_only=False)}, 2048)
        losses.append(passed["a"].values["metrics"]["loss:sum"])
        engine.optim_step({"a": AdamParams(1e-2, 0.9, 0.95, 1e-12, 0.0)})
    (scored,) = score_all(engine, [Score("a", PROMPT, 2)], 2048)
    return {"losses": losses, "scored": scored}


@pytest.mark.parametrize("python", PYTHONS or [""])
def test_an_sdk_trains_and_samples(python: str, server: Running, expected: dict[str, Any]) -> None:
    host, port = server.address
    given = json.dumps({"rows": rows(), "prompt": PROMPT})
    ran = subprocess.run(
        [python, str(Path(__file__).with_name("sdk_session.py")), f"http://{host}:{port}", given],
        env={**os.environ, "TINKER_API_KEY": KEY, "TINKER_TELEMETRY": "0", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["rank"] == 8
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=2e-4)
    assert all(norm > 0 for norm in found["norms"])
    own = expected["scored"]
    for name in ("prompt", "scored", "named"):
        assert found[name][0] is None
        np.testing.assert_allclose(found[name][1:], own["logprobs"][1:], atol=1e-2)
    assert found["top"][0] is None
    assert [[token for token, _ in place] for place in found["top"][1:]] == own["top_ids"][1:].tolist()
    drawn = sum(len(tokens) for tokens, _ in found["drawn"][:1])
    np.testing.assert_allclose(found["policy"]["importance_sampling"], -drawn, rtol=1e-3, err_msg="on its own samples")
    np.testing.assert_allclose(found["policy"]["ppo"], -drawn, rtol=1e-3)
    np.testing.assert_allclose(found["policy"]["cispo"], -sum(found["drawn"][0][1]), rtol=1e-2)
    assert found["policy"]["dro"] > found["policy"]["cispo"], "its square counts tokens without an advantage, too"
    assert found["several"] == [len(PROMPT) + len(found["drawn"][0][0]) - 1, 2]
    assert len({round(loss, 3) for loss in found["same"]}) == 1, "a state that was loaded is the one that was saved"
    assert found["many"][0] == 2500
    assert "none of 0 to 1023" in found["refused"]
    assert found["after"] == pytest.approx(found["same"][0], rel=1e-5)
    assert [path.rpartition("/")[2] for path in found["kept"]] == ["here"]
