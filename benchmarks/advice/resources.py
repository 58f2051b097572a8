"""Memory and seconds: what the plan counts beside what was measured, on a CPU and on a GPU."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator

from benchmarks.advice.advised import method_of
from benchmarks.advice.row import Row
from benchmarks.advice.settings import HOME, RESULTS, rows

from lowregret.plan.resources.cost import run_cost
from lowregret.plan.resources.hardware import Hardware, find_hardware
from lowregret.plan.resources.memory import memory
from lowregret.plan.resources.trainer import ENGINE, Trainer
from lowregret.plan.shapes.lookup import find_model

CHECKED = RESULTS / "plan_check.json"
PEFT = HOME / "benchmarks" / "tables" / "peft_metamath.csv"
"""huggingface/peft, method_comparison/MetaMathQA/results, at the commits of its last column (all runs of these
experiments that its history has): Llama-3.2-3B, rows of at most 768 tokens padded to the longest of a batch of 4,
bfloat16 without autocast or recomputation, AdamW. `seconds_a_step` is the mean of the timed steps, which leave out
evaluation; `stays_gb` what is allocated after a step, in the mean of the first 250."""
REAL = "HuggingFaceTB/SmolLM2-135M-Instruct"
CHECKED_ON = Hardware(
    name="2 cores of an AMD EPYC (virtual)",
    kind="cpu",
    memory_bytes=24 * 2**30,
    flops_per_second=2.161e11,
    bytes_per_second=6.882e10,
    utilisation=1.0,
    call_seconds=5.93e-6,
    price_per_hour=None,
    source="solved from the 32 times that the plan gave there (docs/results/plan_check.md), to 0.13 %",
)
"""The machine of CHECKED, which kept no probe."""
PEFT_TRAINER = Trainer(full_bytes=2, frozen_float32=False, extra_passes=16, adapter_in=30.0, adapter_out=56.0)
"""As PEFT's comparison trains.

FullFT: weights, gradients and moments in bfloat16; torch's AdamW, not fused, takes 20 passes where the optimizer must
take 7, and clipping 3. LoRA: the base in bfloat16, adapters in float32. So for each input x is cast (2 + 4 bytes) and
read (4), and back: read (4), its gradient written (4), cast (6) and added (6). For each output B's product is written
(4), scaled (8), added (10) and cast (6), and back: cast (6), through the sum (6), scaled (8) and read twice (8)."""
ROWS, DEVICE, BASE = 4, "L40S", "Llama-3.2-3B"


def of_checks() -> Iterator[Row]:
    """Trainings of ours on a CPU (benchmarks/plan_check.py)."""
    for key, found in json.loads(CHECKED.read_text(encoding="utf-8")).items():
        name, method, count, length = key.split(" ")
        shapes, chosen = find_model(REAL if name == "real" else name), method_of(method)
        need = memory(shapes, chosen, rows=int(count), length=int(length), hardware=CHECKED_ON)
        cost = run_cost(shapes, chosen, CHECKED_ON, rows=int(count), steps=1, length=int(length))
        case = f"{shapes.name.rpartition('/')[2]}, {method}, {count} × {length}"
        yield Row("memory", "our engine, CPU", case, need.total / 1e9, found["peak"] / 1e9)
        yield Row("seconds", "our engine, CPU", case, cost.step_seconds, statistics.median(found["step_seconds"]))


def of_peft() -> Iterator[Row]:
    """PEFT's comparison on a GPU, counted as it trains, and by the plan of our engine on the same work."""
    shapes, device = find_model(BASE), find_hardware(DEVICE)
    for row in rows(PEFT):
        if not row["method"]:
            continue  # no matrix adapted: what TRAFFIC of resources/cost.py is set by
        method, length = method_of(row["method"]), round(float(row["tokens_a_step"]) / ROWS)
        case = f"{BASE}, {row['method']}, {row['date']}"
        need = memory(shapes, method, rows=ROWS, length=length, trainer=PEFT_TRAINER)
        stays = (need.weights + need.gradients + need.optimizer) / 1e9
        yield Row("memory", "PEFT, what stays", case, stays, float(row["stays_gb"]))
        for name, trainer in (("PEFT on a GPU", PEFT_TRAINER), ("PEFT on a GPU, beside our engine", ENGINE)):
            cost = run_cost(shapes, method, device, rows=ROWS, steps=1, length=length, trainer=trainer)
            yield Row("seconds", name, case, cost.step_seconds, float(row["seconds_a_step"]))
