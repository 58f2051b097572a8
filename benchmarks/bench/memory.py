"""Figure 7: what sixteen policies add to the peak of memory, beside activations."""

from __future__ import annotations

import statistics

from benchmarks.bench.figures import Bench, Figure, Raw
from benchmarks.bench.table import Line, gigabytes, goal

ADAPTER = "r16"
MANY = 16
_COPIES, _BYTES = 4, 4
"""Adapter, gradient and two moments, in float32."""


def measure(bench: Bench) -> Raw:
    """Fresh processes: one policy, then 16, each holding its gradients and moments after passes of one short row."""
    found: dict[str, list[dict[str, int]]] = {"1": [], str(MANY): []}
    for _ in range(bench.repeats):
        for count, answers in found.items():
            policies = [f"p{number}" for number in range(int(count))]
            settings = {"model": bench.base, "folder": bench.gsm8k(), "policies": policies, "adapter": ADAPTER}
            with bench.launcher.child("ours:remember", **settings) as child:
                child.ask()
                answers.append({**child.ask(), "loaded_bytes": child.facts["loaded_bytes"]})
    return {"policies": found}


def lines(raw: Raw) -> list[Line]:
    """The growth from one policy to 16, scaled to 16, over what they must hold."""
    one, many = raw["policies"]["1"], raw["policies"][str(MANY)]
    must = MANY * _COPIES * _BYTES * one[0]["parameters"]
    pairs = zip(one, many, strict=True)
    growth = statistics.median(b["peak_bytes"] - a["peak_bytes"] for a, b in pairs) * MANY / (MANY - 1)
    shown = []
    for count, answers in raw["policies"].items():
        peak = statistics.median(answer["peak_bytes"] for answer in answers)
        beside = statistics.median(answer["peak_bytes"] - answer["loaded_bytes"] for answer in answers)
        label = f"lowregret, {count} polic{'y' if count == '1' else 'ies'} of rank 16"
        shown.append(Line("7", label, peak=gigabytes(peak), beside=gigabytes(beside)))
    verdict = (
        f"16 add {gigabytes(growth)}, {goal(growth / must, 1.2, at_most=True)} of their weights, gradients and moments "
        f"({gigabytes(must)})"
    )
    return [*shown[:-1], Line("7", shown[-1].contender, peak=shown[-1].peak, beside=shown[-1].beside, verdict=verdict)]


MEMORY = Figure("memory", measure, lines, lambda raw: [])
