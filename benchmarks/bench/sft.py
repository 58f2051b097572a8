"""Figures 1 to 3: a training step on a real base, LoRA of rank 16 and FullFT, and its share of the matmul peak."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.bench import matmul
from benchmarks.bench.children import take_turns
from benchmarks.bench.figures import BATCH, FULL_RATE, LORA_RATE, Bench, Figure, Raw, batches, loss_note
from benchmarks.bench.prepare import read_rows
from benchmarks.bench.results import median, median_rate, peak, timed
from benchmarks.bench.table import Line, goal, line, same_work
from benchmarks.bench.work import full_step, lora_step, peak_share, read_shapes

OURS, TRL, TRL_FULL, LOOP = "lowregret", "TRL + PEFT", "TRL", "PEFT, loop by hand"
RANK = 16
ADAPTER = f"r{RANK}"
TRL_SETTINGS: dict[str, dict[str, Any]] = {
    "padded, sdpa": {"padding_free": False, "attention": "sdpa"},
    "padded, eager": {"padding_free": False, "attention": "eager"},
    "padding-free, sdpa": {"padding_free": True, "attention": "sdpa"},
}
_TRIED_STEPS = 2


def measure_settings(bench: Bench) -> Raw:
    """{"seconds": {setting: median step}}: TRL's step under each setting that keeps the batch what it is."""
    seconds = {}
    for name, settings in TRL_SETTINGS.items():
        wanted = {name: _trl(bench, ADAPTER, LORA_RATE, settings)}
        with bench.launcher.children(wanted) as contenders:
            seconds[name] = median(take_turns(contenders, 1, min(_TRIED_STEPS, bench.repeats))[name])
    return {"seconds": seconds, "fastest": min(seconds, key=seconds.__getitem__)}


def settings_notes(raw: Raw) -> list[str]:
    shown = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in raw["seconds"].items())
    return [
        f"TRL's settings, one LoRA step each: {shown}; `{raw['fastest']}` is what stands in the table. The rest is "
        "the same for all: no checkpointing of activations, no worker processes, fused AdamW. The loop by hand, whose "
        "rows are padded, has the faster attention of the padded ones. Packing would change which examples make a "
        "batch, and Liger's kernels are for GPUs."
    ]


def measure_lora(bench: Bench) -> Raw:
    """TRL + PEFT, PEFT by hand, and lowregret on the same batches."""
    folder = bench.gsm8k()
    tried = bench.need("trl")
    best = TRL_SETTINGS[tried["fastest"]]
    padded = {name: seconds for name, seconds in tried["seconds"].items() if not TRL_SETTINGS[name]["padding_free"]}
    attention = TRL_SETTINGS[min(padded, key=padded.__getitem__)]["attention"]
    peft = {"model": bench.base, "folder": folder, "adapter": ADAPTER, "batch": BATCH}
    return _measure(
        bench,
        {
            TRL: _trl(bench, ADAPTER, LORA_RATE, best),
            LOOP: ("peers:peft_loop", {**peft, "learning_rate": LORA_RATE, "attention": attention}),
            OURS: _ours(bench, ADAPTER, LORA_RATE),
        },
        rank=RANK,
    )


def measure_full(bench: Bench) -> Raw:
    """TRL and lowregret, all weights."""
    best = TRL_SETTINGS[bench.need("trl")["fastest"]]
    return _measure(
        bench,
        {TRL_FULL: _trl(bench, None, FULL_RATE, best), OURS: _ours(bench, "full", FULL_RATE)},
        rank=None,
    )


def lora_lines(raw: Raw) -> list[Line]:
    """Figure 1, and its part of 3."""
    found = raw["contenders"]
    ours, trl, loop = found[OURS], found[TRL], found[LOOP]
    rate = median_rate(ours, "supervised")
    verdict = [
        f"{goal(rate / median_rate(trl, 'supervised'), 2.5)} {TRL}, {same_work(ours, trl)}",
        f"{goal(peak(ours) / peak(trl), 0.45, at_most=True)} of its memory",
        f"{goal(rate / median_rate(loop, 'supervised'), 1.8)} the loop by hand, {same_work(ours, loop)}",
    ]
    return [line("1", TRL, trl), line("1", LOOP, loop), line("1", OURS, ours, "; ".join(verdict)), _share_line(raw)]


def full_lines(raw: Raw) -> list[Line]:
    """Figure 2, and its part of 3."""
    ours, trl = raw["contenders"][OURS], raw["contenders"][TRL_FULL]
    speed = median_rate(ours, "supervised") / median_rate(trl, "supervised")
    verdict = [
        f"{goal(speed, 1.4)} {TRL_FULL}, {same_work(ours, trl)}",
        f"{goal(peak(ours) / peak(trl), 2 / 3, at_most=True)} of its memory",
    ]
    return [line("2", TRL_FULL, trl), line("2", OURS, ours, "; ".join(verdict)), _share_line(raw)]


def share(raw: Mapping[str, Any], label: str) -> float:
    """The median share of the matmul peak, over the timed steps of a contender."""
    contender = raw["contenders"][label]
    highest = max(raw["peaks"].values())
    counts = raw["multiply_adds"][contender["warmup"] :]
    steps = zip(counts, timed(contender), strict=True)
    return statistics.median(peak_share(count, answer["seconds"], highest) for count, answer in steps)


def _share_line(raw: Raw) -> Line:
    method = f"LoRA r{RANK}" if raw["rank"] else "FullFT"
    others = ", ".join(f"{label} {100 * share(raw, label):.0f} %" for label in raw["contenders"] if label != OURS)
    needed = statistics.median(raw["multiply_adds"]) / 1e9
    verdict = f"{goal(share(raw, OURS), 0.65, unit='%')} of {max(raw['peaks'].values()):.0f} GFLOP/s; {others}"
    return Line(
        "3", f"{OURS}, {method}: share of the peak", rate=f"{needed:.0f} G multiply-adds a step", verdict=verdict
    )


def _measure(bench: Bench, wanted: Mapping[str, tuple[str, Mapping[str, Any]]], rank: int | None) -> Raw:
    folder, steps = bench.gsm8k(), bench.warmup + bench.repeats
    shapes = read_shapes(Path(bench.base))
    counted = [
        full_step(shapes, rows) if rank is None else lora_step(shapes, rows, rank)
        for rows in batches(read_rows(folder), BATCH, steps)
    ]
    with bench.launcher.children({**wanted, matmul.LABEL: ("matmul:run", {})}) as contenders:
        found = take_turns(contenders, bench.warmup, bench.repeats)
    return {
        "peaks": matmul.peaks(found.pop(matmul.LABEL)),
        "contenders": found,
        "multiply_adds": counted,
        "rank": rank,
    }


def _trl(bench: Bench, adapter: str | None, rate: float, settings: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    common = {"model": bench.base, "folder": bench.gsm8k(), "scratch": bench.scratch(), "batch": BATCH}
    steps = bench.warmup + bench.repeats
    return "peers:trl", {**common, "adapter": adapter, "learning_rate": rate, "steps": steps, **settings}


def _ours(bench: Bench, adapter: str, rate: float) -> tuple[str, Mapping[str, Any]]:
    common = {"model": bench.base, "folder": bench.gsm8k(), "batch": BATCH}
    return "ours:train", {**common, "policies": {OURS: (adapter, rate)}}


SETTINGS = Figure("trl", measure_settings, lambda raw: [], settings_notes)
LORA = Figure("sft", measure_lora, lora_lines, lambda raw: [loss_note(raw, "1")])
FULL = Figure("full", measure_full, full_lines, lambda raw: [loss_note(raw, "2")])
