"""Faults at file operations, a sample of what `make faults` meets: the same command brings back the untouched run's
numbers, to the bit."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.faults.operations import ACTIONS, Operation, Operations

ROOT = Path(__file__).parents[2]
POINTS = 16
_SAMPLE = """
import json, random, sys
from pathlib import Path
from benchmarks.faults.jobs import Bench, survived, warm
warm()
bench = Bench(Path(sys.argv[1]), ("train lora", "train full", "rl", "compare"))
results = [bench.meet(point) for point in bench.points(random.Random(int(sys.argv[2])))[: int(sys.argv[3])]]
print(json.dumps([[r.point.key, r.point.operation.path, r.faulted, r.lost, survived(r)] for r in results]))
"""


def test_a_sample_of_all_faults_loses_nothing(tmp_path: Path) -> None:
    """In a process of its own: it forks, which must come before torch has computed anything."""
    ended = subprocess.run(
        [sys.executable, "-c", _SAMPLE, str(tmp_path.resolve()), "1", str(POINTS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    results = json.loads(ended.stdout.splitlines()[-1])
    assert len(results) == POINTS
    assert [result for result in results if not result[-1]] == []
    assert {faulted for *_, faulted, _, _ in results} >= {"killed", "clear error"}


def test_the_committed_result_is_whole_and_lost_nothing() -> None:
    found = json.loads((ROOT / "docs" / "results" / "faults.json").read_text())
    assert found["points"] == sum(row["points"] for row in found["by"]) == sum(found["jobs"].values())
    assert found["lost"] == len(found["losses"]) == 0
    assert {"train lora", "train full", "compare", "rl", "study"} <= found["jobs"].keys()
    assert set(found["actions"]) >= {action for actions in ACTIONS.values() for action in actions}


def test_an_operation_is_met_by_its_number_and_others_are_not(tmp_path: Path) -> None:
    found = Operations(tmp_path, 2, "ENOSPC")
    found.meet("open", "/elsewhere/a")
    found.meet("open", f"{tmp_path}/a")
    with pytest.raises(OSError, match="No space left"):
        found.meet("write", f"{tmp_path}/a")
    found.meet("fsync", f"{tmp_path}/a")
    assert found.seen == [Operation("open", "a"), Operation("write", "a"), Operation("fsync", "a")]


def test_every_beginning_of_the_points_is_a_sample_of_all_jobs() -> None:
    from benchmarks.faults.jobs import Bench

    bench = Bench.__new__(Bench)
    bench.operations = {"a": [Operation("write", "x")] * 40, "b": [Operation("fsync", "x")] * 10}
    points = bench.points(random.Random(0))
    assert len({point.key for point in points}) == len(points) == 40 * 4 + 10 * 2
    assert {point.job for point in points[:20]} == {"a", "b"}
