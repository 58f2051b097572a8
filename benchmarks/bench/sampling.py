"""Figure 6: sampling from eight policies in one call, against eight calls, PEFT, and transformers."""

from __future__ import annotations

from typing import Any

from benchmarks.bench.children import Contender, take_turns
from benchmarks.bench.figures import Bench, Figure, Raw
from benchmarks.bench.results import median_rate
from benchmarks.bench.table import Line, goal, line

POLICIES = tuple(f"p{number}" for number in range(8))
NEW_TOKENS = 64
TOGETHER, APART, MIXED = "lowregret, 8 policies in one call", "lowregret, 8 calls", "PEFT generate, adapter_names"
SINGLE, ADAPTER, MERGED = "lowregret, 1 policy", "PEFT generate, 1 adapter", "transformers generate, merged"


def measure(bench: Bench) -> Raw:
    """Every contender answers the same prompts, greedily, to the last token; warmed up by a few."""
    common = {"model": bench.base, "folder": bench.gsm8k()}
    wanted = {
        TOGETHER: ("ours:sample", {**common, "policies": POLICIES}),
        MIXED: ("peers:generate", {**common, "policies": POLICIES, "form": "adapter_names"}),
        SINGLE: ("ours:sample", {**common, "policies": POLICIES[:1]}),
        ADAPTER: ("peers:generate", {**common, "policies": POLICIES[:1], "form": "adapter"}),
        MERGED: ("peers:generate", {**common, "policies": POLICIES[:1], "form": "merged"}),
    }
    with bench.launcher.children(wanted) as loaded:
        contenders = [_asked(each, each.label, together=True) for each in loaded]
        contenders.append(_asked(loaded[0], APART, together=False))
        for each in contenders:
            each.child.ask(**{**each.request, "max_tokens": 3})
        found = take_turns(contenders, 0, bench.repeats)
    return {"contenders": found, "equal": _agreement(found)}


def _asked(contender: Contender, label: str, *, together: bool) -> Contender:
    return Contender(label, contender.child, {"together": together, "max_tokens": NEW_TOKENS})


def _agreement(found: dict[str, Any]) -> dict[str, int]:
    """How many completions each contender shares, token for token, with the one it is compared with; drops them."""
    drawn = {label: [answer.pop("ids") for answer in each["answers"]][-1] for label, each in found.items()}
    pairs = {APART: TOGETHER, MIXED: TOGETHER, ADAPTER: SINGLE, MERGED: SINGLE}
    return {label: sum(map(list.__eq__, drawn[label], drawn[ours])) for label, ours in pairs.items()}


def lines(raw: Raw) -> list[Line]:
    """Tokens per second of each, and the ratios."""
    found, equal = raw["contenders"], raw["equal"]
    rates = {label: median_rate(each, "tokens") for label, each in found.items()}
    verdicts = {
        TOGETHER: f"{goal(rates[TOGETHER] / rates[APART], 3)} the 8 calls; "
        f"{goal(rates[TOGETHER] / rates[MIXED], 3)} PEFT's adapter_names",
        SINGLE: f"{goal(rates[SINGLE] / rates[MERGED], 1.2)} transformers; "
        f"{rates[SINGLE] / rates[ADAPTER]:.2f}× PEFT with the same adapter",
        **{label: f"{count} completions equal ours, token for token" for label, count in equal.items()},
    }
    order = (APART, MIXED, TOGETHER, ADAPTER, MERGED, SINGLE)
    return [line("6", label, found[label], verdicts[label], unit="tokens") for label in order]


def notes(raw: Raw) -> list[str]:
    return [
        f"Figure 6: 8 GSM8K prompts a policy, {NEW_TOKENS} new tokens each, greedy, no early stop; all of rank 16. "
        "Completions can part where two tokens are equally likely to the last bit of float32."
    ]


SAMPLING = Figure("sampling", measure, lines, notes)
