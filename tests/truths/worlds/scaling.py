"""Worlds of the question of scaling (SCIENCE 3.11 and 3.1)."""

from __future__ import annotations

import math
from typing import Any

from lowregret.spec.method import FullFT
from lowregret.spec.study import GroupSpec
from truths.simulator import BASE, RATE, AnyMethod, Nature, Truth, World

WIDTHS = {"tiny-32": 32, "tiny-64": 64, "tiny": 128}
QUESTION: dict[str, Any] = {"kind": "scaling", "models": tuple(WIDTHS), "ranks": (1, 16), "steps": 8, "evals": 1}


def wider(group: GroupSpec) -> float:
    """Doublings of the width over that of the middle base."""
    return math.log2(WIDTHS[group.model] / 64)


def sway(group: GroupSpec, step: int) -> float:
    """Seeds differ in how their best rate moves with the width."""
    return 0.02 + 0.01 * wider(group)


def nature(ratio: float, apart: float, regret: float) -> Nature:
    """A world by what a doubling of the width adds.

    Args:
        ratio: doublings of LoRA's best rate over FullFT's, a mean over ranks.
        apart: how much more than the mean it is for rank 16, and less for rank 1.
        regret: of rank 16, a share of FullFT's loss, which falls with the width.
    """

    def best(group: GroupSpec, method: AnyMethod, step: int) -> float:
        if isinstance(method, FullFT):
            return -wider(group)
        at_64, own = (2.0, ratio - apart) if method.rank == 1 else (3.0, ratio + apart)
        return at_64 + (own - 1) * wider(group)

    def learned(group: GroupSpec, method: AnyMethod, step: int) -> float:
        full = 1.5 + 0.2 * wider(group)
        if isinstance(method, FullFT):
            return full
        off_the_line = 1e-5 * (3 * wider(group) ** 2 - 2)  # its slope over the three widths is zero
        share = 0.05 + regret * wider(group) + off_the_line
        return full - (share if method.rank == 16 else 0.3 + 0.05 * wider(group)) * (BASE - full)

    return Nature(learned, best=best, drift=sway, hidden_size=lambda group: WIDTHS[group.model])


def of_ratio(name: str, ratio: float, holds: bool | None) -> World:
    """Best rates move off those that are tried, so that losses move as well: nothing is said of the regret."""
    return World(name, QUESTION, {"scaling-ratio": Truth(holds, ratio)}, nature(ratio, apart=0.1, regret=-0.01))


def of_regret(name: str, regret: float, holds: bool | None) -> World:
    """Best rates stay on those that are tried."""
    return World(name, QUESTION, {"scaling-regret": Truth(holds, regret)}, nature(ratio=0.0, apart=0.0, regret=regret))


def of_formula(name: str, over: tuple[float, float, float], holds: bool | None) -> World:
    """The formula is `over` times LoRA's best rate, a base each. No name is of a family: the mean of two powers."""
    known = dict(zip(WIDTHS, over, strict=True))

    def best(group: GroupSpec, method: AnyMethod, step: int) -> float:
        formula = 5e-4 * (2000 / WIDTHS[group.model]) ** ((0.781 + 0.0775) / 2)
        return 0.0 if isinstance(method, FullFT) else math.log2(formula / RATE / known[group.model])

    truths = {f"scaling-formula:{base}": Truth(holds, value) for base, value in known.items()}
    found = Nature(lambda *_: 1.5, best=best, drift=sway, hidden_size=lambda group: WIDTHS[group.model])
    return World(name, QUESTION, truths, found)


WORLDS = (
    of_formula("a formula a little high", (1.5, 1.3, 1.7), True),
    of_formula("a formula a little low", (0.7, 0.8, 0.6), True),
    of_formula("a formula too high", (3.0, 2.5, 3.5), False),
    of_formula("a formula too low", (0.4, 0.3, 0.35), False),
    of_formula("a formula at its bound", (2.0, 2.0, 2.0), None),
    of_ratio("a ratio at its bound", 0.25, None),
    of_regret("a regret that stays", 0.0, None),
    of_ratio("a ratio that rises a little", 0.15, True),
    of_ratio("a ratio that falls a little", -0.15, True),
    of_ratio("a ratio that rises", 0.3, False),
    of_ratio("a ratio that falls", -0.3, False),
    of_regret("a regret that falls", -0.01, True),
    of_regret("a regret that rises", 0.01, False),
)
