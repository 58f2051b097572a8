"""Reinforcement learning: a step beside TRL's GRPOTrainer with PEFT, and eight policies beside eight runs.

Nothing ends early and both sides draw the same number of tokens for the same prompts, so that they do the same work.
The rewards differ, as they are of what was drawn: they are a number made of the completion's text, the same on both
sides, which leaves every group with an advantage.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.bench.children import ROOT, Contender, take_turns
from benchmarks.bench.figures import Bench, Figure, Raw
from benchmarks.bench.results import median, peak, timed
from benchmarks.bench.table import Line, gigabytes, goal, line

TRL, ONE = "TRL GRPOTrainer + PEFT", "lowregret, 1 policy"
TOGETHER, APART = "lowregret, 8 policies together", "lowregret, 8 policies one after another"
POLICIES = tuple(f"p{number}" for number in range(8))
ADAPTER = "r16"
GROUP = 8
RATE = 1e-5
"""Small: the policies go on drawing texts of the kind that they began with."""
WORK: Mapping[str, tuple[int, int]] = {"rl-tiny-few": (1, 64), "rl-tiny": (4, 64), "rl-base": (2, 48)}
"""(problems a step, tokens of a completion): a small step gains most by company, so there are two of them."""
BASE = "rl-base"
"""The one that wants a real base."""


def settings(bench: Bench, name: str) -> dict[str, Any]:
    """What both sides are told of the work; the files it names are there."""
    problems, tokens = WORK[name]
    tiny = name != BASE
    folder = bench.stream() if tiny else bench.gsm8k()
    model = str(ROOT / "src" / "lowregret" / "models" / "bundled" / "tiny") if tiny else bench.base
    told = {"model": model, "data": None if tiny else bench.data, "folder": folder}
    with bench.launcher.child("rl_contenders:prepare", **told, count=problems * (bench.warmup + bench.repeats)):
        pass
    work = {"problems": problems, "group": GROUP, "max_tokens": tokens, "learning_rate": RATE, "adapter": ADAPTER}
    return {"model": model, "folder": folder, **work}


def measure(bench: Bench, name: str) -> Raw:
    """Three processes take turns; that of the eight policies has two, and is asked for the other way in between."""
    common = settings(bench, name)
    steps = bench.warmup + bench.repeats
    wanted = {
        TRL: ("rl_contenders:trl", {**common, "scratch": bench.scratch(), "steps": steps}),
        ONE: ("rl_contenders:ours", {**common, "policies": POLICIES[:1]}),
        TOGETHER: ("rl_contenders:ours", {**common, "policies": POLICIES}),
    }
    with bench.launcher.children(wanted) as loaded:
        contenders = [Contender(each.label, each.child, {"together": True}) for each in loaded]
        contenders.append(Contender(APART, loaded[-1].child, {"together": False}))
        found = take_turns(contenders, bench.warmup, bench.repeats)
    lengths = [len(prompt["ids"]) for prompt in read_problems(common["folder"])]
    return {
        "contenders": found,
        "work": expected(common, len(POLICIES)),
        "prompt_tokens": lengths,
        "completion_tokens": common["max_tokens"],
    }


def expected(common: Mapping[str, Any], policies: int) -> dict[str, int]:
    """Completion tokens that a step of each contender must have drawn."""
    one = int(common["problems"]) * int(common["group"]) * int(common["max_tokens"])
    return {TRL: one, ONE: one, TOGETHER: policies * one, APART: policies * one}


def read_problems(folder: str) -> list[dict[str, Any]]:
    """[{"ids": the prompt's tokens, "text": what they say}]."""
    found: list[dict[str, Any]] = json.loads((Path(folder) / "rl.json").read_text())
    return found


def unequal_work(raw: Raw) -> list[str]:
    """Contenders of which a step drew more or fewer tokens than it should."""
    wanted = raw["work"]
    return [
        label
        for label, each in raw["contenders"].items()
        if any(answer["tokens"] != wanted[label] for answer in each["answers"])
    ]


def lines(raw: Raw) -> list[Line]:
    """Seconds of a step and peaks, and what was wanted of them (issue 6, figure 4)."""
    found = raw["contenders"]
    ours, theirs, many, each = (found[label] for label in (ONE, TRL, TOGETHER, APART))
    sampling = ratio(each, many, "sampling_seconds")
    verdicts = {
        ONE: f"{goal(ratio(theirs, ours), 2)} TRL's steps per second; "
        f"{goal(peak(ours) / peak(theirs), 0.5, at_most=True)} of its memory "
        f"({gigabytes(beside(ours))} against {gigabytes(beside(theirs))} beside loading)",
        TOGETHER: f"{goal(sampling, 3)} in sampling and {goal(ratio(each, many), 1.8)} overall, {APART}",
    }
    unequal = unequal_work(raw)
    what = f"RL, {raw['work'][ONE] // raw['completion_tokens']} completions a policy and step"
    shown = []
    for label in (TRL, ONE, APART, TOGETHER):
        verdict = verdicts.get(label, "") + (" **not the same work**" if label in unequal else "")
        shown.append(line(what, label, found[label], verdict, unit="tokens"))
    return shown


def ratio(slow: Mapping[str, Any], fast: Mapping[str, Any], field: str = "seconds") -> float:
    """The median over rounds of one contender's time over the other's in the same round: load of the hour cancels."""
    pairs = zip(timed(slow), timed(fast), strict=True)
    return statistics.median(float(one[field]) / float(other[field]) for one, other in pairs)


def beside(contender: Mapping[str, Any]) -> int:
    """The peak less what was resident after loading, bytes."""
    return peak(contender) - int(contender["loaded_bytes"])


def notes(raw: Raw) -> list[str]:
    found = raw["contenders"]
    parts = ", ".join(
        f"{label}: sampling {median(found[label], 'sampling_seconds'):.2f} of {median(found[label]):.2f} s"
        for label in (ONE, TOGETHER, APART)
    )
    lengths = raw["prompt_tokens"]
    return [
        f"RL: groups of {GROUP}, {raw['work'][ONE]} completion tokens a policy and step, prompts of {min(lengths)} to "
        f"{max(lengths)} tokens, rank 16, no early stop, no checkpointing of activations, AdamW without weight decay; "
        f"ratios are medians of the rounds' own. {parts}."
    ]


def figure(name: str) -> Figure:
    """One of them: on the bundled base, or on a real one."""
    return Figure(name, lambda bench: measure(bench, name), lines, notes, needs_base=name == BASE)


FIGURES = tuple(figure(name) for name in WORK)
