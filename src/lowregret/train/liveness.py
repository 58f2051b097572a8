"""Which experts of a mixture got something to learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowregret.engine import Engine
from lowregret.engine.checks import traffic
from lowregret.runs.files import EXPERTS
from lowregret.runs.measured import read_experts


@dataclass(frozen=True)
class ExpertUse:
    """What one module of experts got in training so far."""

    module: str
    pairs: tuple[int, ...]
    """Pairs of token and expert, by expert, in all backward passes since the process began; padding, where a base needs
    it, is sent to experts like any token."""
    reached: tuple[int, ...]
    """Those among them whose output had a gradient: padding has none, and in the last layer only supervised positions
    have one."""

    @property
    def untrained(self) -> tuple[int, ...]:
        """Experts that no token with a gradient was sent to: they are as they were at the start."""
        return tuple(expert for expert, count in enumerate(self.reached) if not count)

    def facts(self) -> dict[str, Any]:
        """For a record; `untrained` comes first, because that is what to look at."""
        return {"untrained": list(self.untrained), "pairs": list(self.pairs), "reached": list(self.reached)}


def expert_use(engine: Engine, policy: str) -> list[ExpertUse]:
    """Which experts got tokens and gradient so far; the list is empty for a base without, and before a step."""
    return [
        ExpertUse(name, *(tuple(counts) for counts in both.tolist())) for name, both in traffic(engine, policy).items()
    ]


def untrained_experts(trials: Sequence[Path]) -> list[str]:
    """What finished trials say of their experts, in lines for the user; [] for a base without experts."""
    kept = [found for trial in trials if (found := read_experts(trial))]
    if not kept:
        return []
    idle: dict[str, set[int]] = {}
    for found in kept:
        for module, use in found.items():
            idle.setdefault(module, set()).update(use.untrained)
    several = f" in each of {len(kept)} trials" if len(kept) > 1 else ""
    some = f" in at least one of {len(kept)} trials" if len(kept) > 1 else ""
    if not any(idle.values()):
        counts = sorted({len(use.pairs) for use in kept[0].values()})
        return [f"experts: all {' or '.join(map(str, counts))} of each of {len(idle)} layers were trained{several}"]
    return [
        f"experts: {module}: {', '.join(map(str, sorted(found)))} got no token with a gradient{some} and are as they "
        f"were at the start ({EXPERTS})"
        for module, found in idle.items()
        if found
    ]
