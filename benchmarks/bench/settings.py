"""Which of its settings is the fastest of a peer, on the machine where it runs: that one stands in the table.

On an Intel processor TRL is faster padded, on an AMD EPYC without padding; so each is tried briefly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.bench.children import take_turns
from benchmarks.bench.figures import Bench, Raw
from benchmarks.bench.results import median

Settings = Mapping[str, Any]
SETTINGS: Mapping[str, Settings] = {
    "padded, sdpa": {"padding_free": False, "attention": "sdpa"},
    "padded, eager": {"padding_free": False, "attention": "eager"},
    "padding-free, sdpa": {"padding_free": True, "attention": "sdpa"},
}
"""Those that keep the batch what it is."""
_TRIED_STEPS = 2


def fastest(bench: Bench, contender: Callable[[Settings], tuple[str, Mapping[str, Any]]]) -> Raw:
    """{"seconds": {setting: median step}, "fastest": its name}; `contender` makes a child's function and arguments."""
    seconds = {}
    for name, settings in SETTINGS.items():
        with bench.launcher.children({name: contender(settings)}) as tried:
            seconds[name] = median(take_turns(tried, 1, min(_TRIED_STEPS, bench.repeats))[name])
    return {"seconds": seconds, "fastest": min(seconds, key=seconds.__getitem__)}


def told(label: str, tried: Raw) -> str:
    """What was found, for the page."""
    shown = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in tried["seconds"].items())
    return f"{label}: {shown}; `{tried['fastest']}` is what stands in the table"
