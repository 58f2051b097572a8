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
from benchmarks.bench.results import median_rate, peak, timed
from benchmarks.bench.settings import SETTINGS, Settings, fastest, told
from benchmarks.bench.table import Line, goal, line, same_work
from benchmarks.bench.work import full_step, lora_step, peak_share, read_shapes

OURS, TRL, TRL_FULL, LOOP = "lowregret", "TRL + PEFT", "TRL", "PEFT, loop by hand"
RANK = 16
ADAPTER = f"r{RANK}"


def measure_settings(bench: Bench) -> Raw:
    """{contender: what was tried of it}."""
    return {
        TRL: fastest(bench, lambda settings: _trl(bench, ADAPTER, LORA_RATE, settings)),
        TRL_FULL: fastest(bench, lambda settings: _trl(bench, None, FULL_RATE, settings)),
        LOOP: fastest(bench, lambda settings: _loop(bench, settings)),
    }


def settings_notes(raw: Raw) -> list[str]:
    shown = "; ".join(told(label, tried) for label, tried in raw.items())
    return [
        f"Settings of the peers, a step each. {shown}. The rest is the same for all: no checkpointing of activations, "
        "no worker processes, fused AdamW. Packing would change which examples make a batch, and Liger's kernels are "
        "for GPUs."
    ]


def measure_lora(bench: Bench) -> Raw:
    """TRL + PEFT, PEFT by hand, and lowregret on the same batches."""
    best = _best(bench)
    return _measure(
        bench,
        {
            TRL: _trl(bench, ADAPTER, LORA_RATE, best[TRL]),
            LOOP: _loop(bench, best[LOOP]),
            OURS: _ours(bench, ADAPTER, LORA_RATE),
        },
        rank=RANK,
    )


def measure_full(bench: Bench) -> Raw:
    """TRL and lowregret, all weights."""
    return _measure(
        bench,
        {TRL_FULL: _trl(bench, None, FULL_RATE, _best(bench)[TRL_FULL]), OURS: _ours(bench, "full", FULL_RATE)},
        rank=None,
    )


def _best(bench: Bench) -> dict[str, Settings]:
    """Each peer's fastest setting here."""
    return {label: SETTINGS[tried["fastest"]] for label, tried in bench.need("settings").items()}


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


def _trl(bench: Bench, adapter: str | None, rate: float, settings: Settings) -> tuple[str, Mapping[str, Any]]:
    common = {"model": bench.base, "folder": bench.gsm8k(), "scratch": bench.scratch(), "batch": BATCH}
    steps = bench.warmup + bench.repeats
    return "peers:trl", {**common, "adapter": adapter, "learning_rate": rate, "steps": steps, **settings}


def _loop(bench: Bench, settings: Settings) -> tuple[str, Mapping[str, Any]]:
    common = {"model": bench.base, "folder": bench.gsm8k(), "adapter": ADAPTER, "batch": BATCH}
    return "peers:peft_loop", {**common, "learning_rate": LORA_RATE, **settings}


def _ours(bench: Bench, adapter: str, rate: float) -> tuple[str, Mapping[str, Any]]:
    common = {"model": bench.base, "folder": bench.gsm8k(), "batch": BATCH}
    return "ours:train", {**common, "policies": {OURS: (adapter, rate)}}


TRIED = Figure("settings", measure_settings, lambda raw: [], settings_notes)
LORA = Figure("sft", measure_lora, lora_lines, lambda raw: [loss_note(raw, "1")])
FULL = Figure("full", measure_full, full_lines, lambda raw: [loss_note(raw, "2")])
