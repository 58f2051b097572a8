"""Synthetic study folders for the report's tests, written through the record classes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lowregret.runs.atomic import make_folder, write_json
from lowregret.runs.metrics import append_metric
from lowregret.runs.records import Metric, TrialRecord
from lowregret.runs.verdict import MethodResult, Recommendation, Verdict
from lowregret.spec import CompareSpec, DataSpec, FullFT, LoRA, Method, TrialSpec
from lowregret.version import __version__

STEPS = 120
BASE = 1.9213
COMMAND = "lowregret compare --model tiny --data builtin:biographies --methods lora:16,lora:1,full --out study"
RULES = ("The search stops when worse losses lie on both sides.", "Pruned when over the best by more than 25 %.")
# method: best rate, best loss, curvature per (ln rate)², seconds, memory, parameters, checkpoint
SHAPES: dict[str, tuple[float, float, float, float, int, int, int]] = {
    "lora:16": (1e-3, 1.3041, 0.030, 19.4, 412_000_000, 98_304, 412_000),
    "lora:1": (8e-4, 1.3490, 0.034, 18.1, 402_000_000, 6_144, 41_000),
    "full": (3e-4, 1.3020, 0.045, 27.9, 631_000_000, 983_424, 3_960_000),
}
FACTORS = (0.1, 0.32, 1.0, 3.2, 10.0, 32.0)


def loss(method: str, rate: float, seed: int) -> float:
    """A U over the logarithm of the rate, with a little noise of the seed."""
    best, floor, curvature, *_ = SHAPES[method]
    return floor + curvature * math.log(rate / best) ** 2 + 0.0007 * ((seed * 7 + len(method)) % 3 - 1)


def trial(method: Method, rate: float, seed: int = 0, **changed: Any) -> TrialRecord:
    """One finished trial, with anything changed."""
    _, _, _, seconds, memory, parameters, checkpoint = SHAPES.get(method.name, SHAPES["lora:16"])
    spec = TrialSpec(method=method, learning_rate=rate, seed=seed)
    fields: dict[str, Any] = {
        "id": spec.id,
        "method": method.name,
        "learning_rate": rate,
        "seed": seed,
        "status": "finished",
        "spec": spec,
        "test_nll": loss(method.name, rate, seed) if method.name in SHAPES else 1.31,
        "test_tokens": 5120,
        "steps": STEPS,
        "tokens": STEPS * 8 * 61,
        "seconds": seconds,
        "peak_memory_bytes": memory,
        "trainable_parameters": parameters,
        "checkpoint_bytes": checkpoint,
    }
    return TrialRecord(**(fields | changed))


def metrics(record: TrialRecord) -> list[Metric]:
    """A falling curve that ends at the trial's held-out loss, with three evaluations."""
    end = record.test_nll or BASE
    found: list[Metric] = []
    for step in range(1, record.steps + 1):
        fallen = math.log1p(step) / math.log1p(STEPS)
        mean = BASE + (end - BASE) * fallen
        noise = 0.06 * math.sin(step * 12.9898 + record.seed * 78.233 + 1)
        evaluated = step in (STEPS // 4, STEPS // 2, STEPS)
        found.append(
            Metric(
                step=step,
                tokens=step * 488,
                train_nll=mean + noise - 0.02 * fallen,
                test_nll=mean if evaluated else None,
                lr=record.learning_rate,
                grad_norm=1.0,
                seconds=step * 0.15,
            )
        )
    return found


def spec(**changed: Any) -> CompareSpec:
    """The spec of the ordinary study."""
    fields: dict[str, Any] = {
        "model": "tiny",
        "data": DataSpec(train="builtin:biographies"),
        "methods": (LoRA(rank=16), LoRA(rank=1), FullFT()),
    }
    return CompareSpec(**(fields | changed))


def unfinished(method: Method, rate: float, status: str, **changed: Any) -> TrialRecord:
    """A trial that ended in another way than finished, at half the cost."""
    _, _, _, seconds, memory, *_ = SHAPES[method.name]
    fields: dict[str, Any] = {"test_nll": None, "seconds": seconds / 2, "tokens": 29_280, "peak_memory_bytes": memory}
    return trial(method, rate, status=status, **(fields | changed))


def ordinary_trials() -> list[TrialRecord]:
    """Six rates a method with every kind of end, and three seeds at the best."""
    found: list[TrialRecord] = []
    for method in spec().methods:
        best = SHAPES[method.name][0]
        found += [trial(method, float(f"{best * factor:.3g}")) for factor in FACTORS[:4]]
        high, highest = (float(f"{best * factor:.3g}") for factor in FACTORS[4:])
        if method.name == "full":
            found.append(unfinished(method, high, "diverged", steps=17, error="loss is nan at step 17"))
            found.append(unfinished(method, highest, "failed", steps=0, error="out of memory"))
        else:
            found.append(unfinished(method, high, "pruned", test_nll=1.77, steps=60))
            found.append(unfinished(method, highest, "diverged", steps=9, error="loss is nan at step 9"))
        found += [trial(method, best, seed) for seed in (1, 2)]
    return found


def result(
    name: str, regret: float | None = None, ci95: tuple[float, float] | None = None, **changed: Any
) -> MethodResult:
    """What the ordinary study found about a method."""
    best, floor, _, seconds, memory, parameters, checkpoint = SHAPES[name]
    share = None if regret is None else regret / (BASE - SHAPES["full"][1])
    fields: dict[str, Any] = {
        "name": name,
        "best_learning_rate": best,
        "bracketed": True,
        "test_nll": floor,
        "seeds": 3,
        "trials": 8,
        "tokens": STEPS * 8 * 61,
        "seconds": seconds,
        "peak_memory_bytes": memory,
        "trainable_parameters": parameters,
        "checkpoint_bytes": checkpoint,
        "regret_nats": regret,
        "regret_learned": share,
        "ci95": ci95,
    }
    return MethodResult(**(fields | changed))


def verdict(**changed: Any) -> Verdict:
    """Low regret of LoRA 16, regret of LoRA 1."""
    lora, full = result("lora:16", 0.0021, (-0.0012, 0.0054)), result("full")
    low = result("lora:1", 0.047, (0.0402, 0.0531))
    fields: dict[str, Any] = {
        "verdict": "low_regret",
        "regret_nats": 0.0021,
        "regret_percent": 0.161,
        "ci95": (-0.0012, 0.0054),
        "tolerance_nats": 0.00651,
        "reasons": (
            "The whole 95 % interval of the regret (−0.0012 to +0.0054 nats) lies under the tolerance of 0.0065 nats.",
            "Both best learning rates are bracketed: 1e-3 for lora:16, 3e-4 for full.",
            "lora:1 is 0.047 nats worse: rank 1 runs out of capacity on this data.",
        ),
        "recommendation": Recommendation(
            method="lora:16", rank=16, learning_rate=1e-3, batch_size=8, targets=("attention", "mlp")
        ),
        "methods": (lora, low, full),
        "lora": lora,
        "full": full,
        "base_nll": BASE,
        "learned": BASE - SHAPES["full"][1],
        "regret_learned": lora.regret_learned,
        "search": {"trials": 24, "pruned": 2, "diverged": 3, "failed": 1, "rules": list(RULES)},
        "environment": {"python": "3.11.9", "torch": "2.9.0", "device": "cpu", "cpu": {"cores": 2}},
    }
    return Verdict(**(fields | changed))


def write_study(
    folder: Path,
    *,
    asked: CompareSpec | None = None,
    trials: list[TrialRecord] | None = None,
    found: Verdict | None = None,
    command: str = COMMAND,
) -> Path:
    """Write a study's folder; the ordinary one where nothing else is given."""
    asked = asked or spec()
    trials = ordinary_trials() if trials is None else trials
    make_folder(folder)
    plain = asked.model_dump(mode="json")
    write_json(folder / "spec.json", {"command": command, "spec": plain, "lowregret": __version__})
    for record in trials:
        make_folder(folder / "trials" / record.id)
        write_json(folder / "trials" / record.id / "trial.json", record)
        for metric in metrics(record):
            append_metric(folder / "trials" / record.id / "metrics.jsonl", metric)
    write_json(folder / "verdict.json", found or verdict())
    return folder
