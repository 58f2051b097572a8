"""Figure 5: sixteen trials in one pack, against sixteen PEFT + TRL trainings and against our own engine one by one."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.bench.children import ROOT, Child, take_turns
from benchmarks.bench.figures import (
    PROCESS_BATCH,
    PROCESS_STEPS,
    STREAM_BATCHES,
    STREAM_STEPS,
    TRIAL_RANKS,
    TRIAL_RATES,
    Bench,
    Figure,
    Raw,
)
from benchmarks.bench.prepare import SHORT, SHORT_TOKENS
from benchmarks.bench.results import median, peak
from benchmarks.bench.settings import SETTINGS, Settings, fastest, told
from benchmarks.bench.table import SAME_LOSS, Line, gigabytes, goal, line, same_work
from benchmarks.bench.worker import clock

PACK, ALONE = "one pack", "one after another"
BASE_BATCH = 2


def trials(scale: float = 1.0) -> dict[str, tuple[str, float]]:
    """{trial: (adapter's folder, learning rate)}: four ranks at four rates."""
    return {f"r{rank} at {rate:g}": (f"r{rank}", scale * rate) for rank in TRIAL_RANKS for rate in TRIAL_RATES}


def measure_processes(bench: Bench) -> Raw:
    """Whole processes, start-up included: a pack of 16 as often as asked, in between the 16 trainings of the peers."""
    folder, model = bench.stream(), str(ROOT / "src" / "lowregret" / "models" / "bundled" / "tiny")
    ours: Mapping[str, Any] = {"model": "tiny", "folder": folder, "batch": PROCESS_BATCH, "policies": trials()}
    packs: list[dict[str, Any]] = []
    peers: dict[str, dict[str, Any]] = {}

    def theirs(adapter: str, rate: float, settings: Settings) -> dict[str, Any]:
        common = {"model": model, "folder": folder, "scratch": bench.scratch(), "batch": PROCESS_BATCH}
        own = {"adapter": adapter, "learning_rate": rate, "steps": PROCESS_STEPS}
        return {**common, **own, **settings}

    adapter, rate = next(iter(trials().values()))
    tried = fastest(bench, lambda settings: ("peers:trl", theirs(adapter, rate, settings)))
    every = len(trials()) / bench.repeats
    for number, (name, (adapter, rate)) in enumerate(trials().items()):
        if number >= len(packs) * every:
            packs.append(_whole(bench, "ours:train", ours))
        settings = {**SETTINGS[tried["fastest"]], "logging_steps": PROCESS_STEPS}
        peers[name] = _whole(bench, "peers:trl", theirs(adapter, rate, settings))
    return {"packs": packs, "peers": peers, "tried": tried}


def _whole(bench: Bench, function: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Start a contender, let it train, and wait until it has left."""
    began = clock()
    with bench.launcher.child(function, **settings) as child:
        answer = _train(child)
    answer["seconds"], answer["training_seconds"] = clock() - began, answer["seconds"]
    print(f"    {function}: {answer['seconds']:.2f} s", file=sys.stderr, flush=True)
    return answer


def _train(child: Child) -> dict[str, Any]:
    return child.ask(steps=PROCESS_STEPS)


def process_lines(raw: Raw) -> list[Line]:
    """Sixteen processes' sum against one process; the losses are means over the steps of each trial."""
    packs, peers = raw["packs"], raw["peers"]
    ours = statistics.median(pack["seconds"] for pack in packs)
    theirs = len(peers) * statistics.median(peer["seconds"] for peer in peers.values())
    total = sum(peer["seconds"] for peer in peers.values())
    largest = max(abs(peer["loss"] - packs[0]["losses"][name]) for name, peer in peers.items())
    same = f"losses {largest:.0e} apart" + ("" if largest <= SAME_LOSS else ": **not the same work**")
    spread = [pack["seconds"] for pack in packs]
    mean = statistics.mean(peer["loss"] for peer in peers.values())
    own_mean = statistics.mean(packs[0]["losses"].values())
    training = statistics.median(pack["training_seconds"] for pack in packs)
    their_training = statistics.median(peer["training_seconds"] for peer in peers.values())
    return [
        Line(
            "5",
            f"{len(peers)} TRL + PEFT processes, one after another",
            f"{theirs:.1f} = {len(peers)} × the median (sum {total:.1f}; training {their_training:.1f} each)",
            peak=gigabytes(max(peer["peak_bytes"] for peer in peers.values())),
            loss=f"mean {mean:.4f}",
        ),
        Line(
            "5",
            f"lowregret, one process, a pack of {len(peers)}",
            f"{ours:.1f} ({min(spread):.1f}–{max(spread):.1f}; training {training:.1f})",
            peak=gigabytes(max(pack["peak_bytes"] for pack in packs)),
            loss=f"mean {own_mean:.4f}",
            verdict=f"{goal(theirs / ours, 4)} the speed, start-up included; {same}",
        ),
    ]


def stream_figure(batch: int) -> Figure:
    """The pack against the sum of its trials alone, bundled base, so many rows of 64 tokens a trial."""

    def measure(bench: Bench) -> Raw:
        common = {"model": "tiny", "folder": bench.stream(), "batch": batch, "policies": trials()}
        return _against_alone(bench, common, STREAM_STEPS)

    def lines(raw: Raw) -> list[Line]:
        wanted = 1.5 if batch == 4 else 1.0
        return _alone_lines(raw, f"`tiny`, batch {batch} × 64", wanted)

    return Figure(f"pack-{batch}", measure, lines, lambda raw: [], needs_base=False)


def measure_base(bench: Bench) -> Raw:
    """The same on the real base; a tenth of the rates, which are the bundled base's."""
    common = {"model": bench.base, "folder": bench.gsm8k(), "rows": SHORT, "batch": BASE_BATCH, "policies": trials(0.1)}
    return _against_alone(bench, common, 1)


def base_lines(raw: Raw) -> list[Line]:
    return _alone_lines(raw, f"real base, batch {BASE_BATCH}, up to {SHORT_TOKENS} tokens", 1.0)


def _against_alone(bench: Bench, settings: Mapping[str, Any], steps: int) -> Raw:
    with bench.launcher.children({ALONE: ("ours:train", settings), PACK: ("ours:train", settings)}) as contenders:
        alone, pack = contenders
        turns = [
            type(alone)(ALONE, alone.child, {"together": False, "steps": steps}),
            type(pack)(PACK, pack.child, {"together": True, "steps": steps}),
        ]
        return {"contenders": take_turns(turns, bench.warmup, bench.repeats)}


def _alone_lines(raw: Raw, setting: str, wanted: float) -> list[Line]:
    alone, pack = raw["contenders"][ALONE], raw["contenders"][PACK]
    memory = f"{peak(pack) / peak(alone):.2f} of the memory"
    verdict = f"{goal(median(alone) / median(pack), wanted)} the speed of {ALONE}, {same_work(alone, pack)}; {memory}"
    count = len(pack["answers"][0]["losses"])
    names = f"lowregret, {count} trials {ALONE}, {setting}", f"lowregret, {count} trials in {PACK}, {setting}"
    return [line("5", names[0], alone), line("5", names[1], pack, verdict)]


def process_notes(raw: Raw) -> list[str]:
    return [
        f"Figure 5, processes: {PROCESS_STEPS} steps of {PROCESS_BATCH} × 64 tokens, ranks {TRIAL_RANKS} at rates "
        f"{TRIAL_RATES}; both sides read rows that are tokenised already and write nothing."
        * ([f"Figure 5, {told('TRL + PEFT, a step of 64-token rows', raw['tried'])}."] if "tried" in raw else []),
    ]


PROCESSES = Figure("pack-processes", measure_processes, process_lines, process_notes, needs_base=False)
STREAMS = tuple(stream_figure(batch) for batch in STREAM_BATCHES)
BASE = Figure("pack-base", measure_base, base_lines, lambda raw: [])
