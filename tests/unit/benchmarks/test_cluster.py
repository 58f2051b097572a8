"""The summary of the studies on clusters keeps what another machine has measured."""

from __future__ import annotations

from benchmarks.cluster import summary, with_before


def test_what_this_machine_has_not_measured_stays() -> None:
    before = {"kills": 50, "met": 48, "same": 50, "by": {"node": 20}, "ratio": 1.05, "trials": 700}
    found = with_before(summary([{"key": "throughput 1", "groups_per_second": 7.0}]), before)
    assert found == {**before, "throughput": {"key": "throughput 1", "groups_per_second": 7.0}}
    row = {"key": "kill 0", "what": "worker", "met": True, "same": True}
    assert with_before(summary([row]), before)["kills"] == 1
