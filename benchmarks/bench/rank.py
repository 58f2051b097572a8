"""Figure 4: the time of a LoRA step over that of a FullFT step on our engine, beside theory, rank by rank."""

from __future__ import annotations

from pathlib import Path

from benchmarks.bench.children import Contender, take_turns
from benchmarks.bench.figures import BATCH, FULL_RATE, LORA_RATE, Bench, Figure, Raw, batches
from benchmarks.bench.prepare import read_rows
from benchmarks.bench.results import median, timed
from benchmarks.bench.table import Line, line
from benchmarks.bench.work import plain_ratio, ratio, read_shapes

FULL = "FullFT"
MEASURED = (1, 16, 64, 256)


def measure(bench: Bench) -> Raw:
    """FullFT in one process, and every rank in another, where a rank that has no turn costs nothing."""
    folder = bench.gsm8k()
    common = {"model": bench.base, "folder": folder, "batch": BATCH}
    policies = {f"r{rank}": (f"r{rank}", LORA_RATE) for rank in MEASURED}
    with (
        bench.launcher.child("ours:train", **common, policies={FULL: ("full", FULL_RATE)}) as full,
        bench.launcher.child("ours:train", **common, policies=policies) as lora,
    ):
        contenders = [Contender(FULL, full, {})]
        contenders += [Contender(_label(rank), lora, {"policies": [f"r{rank}"]}) for rank in MEASURED]
        found = take_turns(contenders, bench.warmup, bench.repeats)
    shapes = read_shapes(Path(bench.base))
    rows = [row for batch in batches(read_rows(folder), BATCH, bench.warmup + bench.repeats) for row in batch]
    theory = {_label(rank): (ratio(shapes, rows, rank), plain_ratio(shapes, rank)) for rank in MEASURED}
    return {"contenders": found, "theory": theory}


def lines(raw: Raw) -> list[Line]:
    """Each rank's ratio: of whole steps, and of passes alone, because theory knows nothing of the optimizer."""
    found = raw["contenders"]
    for contender in found.values():
        for answer in contender["answers"]:
            answer["pass_seconds"] = answer["seconds"] - answer["update_seconds"]
    shown = [line("4", FULL, found[FULL])]
    for label, (whole, plain) in raw["theory"].items():
        step = median(found[label]) / median(found[FULL])
        passes = median(found[label], "pass_seconds") / median(found[FULL], "pass_seconds")
        off = step / whole - 1
        verdict = (
            f"{step:.3f} of FullFT's step ({passes:.3f} without the optimizer); theory {whole:.3f} for the whole model "
            f"({plain:.3f} by the plain formula); {100 * off:+.0f} % (wanted within 15 %: "
            f"{'reached' if abs(off) <= 0.15 else '**missed**'})"
        )
        shown.append(line("4", label, found[label], verdict))
    return shown


def notes(raw: Raw) -> list[str]:
    update = {label: median(each, "update_seconds") for label, each in raw["contenders"].items() if timed(each)}
    shown = ", ".join(f"{label} {seconds:.2f} s" for label, seconds in update.items())
    return [
        f"Figure 4, the optimizer's part of a step: {shown}. Theory counts multiply-adds of matrix products with the "
        "head on supervised positions and causal attention; memory-bound work is in the times only. The peak of memory "
        "of the four ranks is that of their common process."
    ]


def _label(rank: int) -> str:
    return f"LoRA r{rank}"


RATIO = Figure("rank", measure, lines, notes)
