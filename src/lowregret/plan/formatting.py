"""Numbers and methods as people read them. Torch-free."""

from __future__ import annotations

from lowregret.spec import FullFT, LoRA


def describe(method: FullFT | LoRA) -> str:
    """A method in a sentence."""
    if isinstance(method, FullFT):
        return "full fine-tuning" if method.plain else f"full fine-tuning ({spelled(method)})"
    base = "" if method.quantisation == "none" else f", over a base in {method.quantisation.upper()}"
    own = f", stepped by {method.optimizer}" if method.optimizer else ""
    return f"LoRA of rank {method.rank} on {' + '.join(method.targets)}{base}{own}"


def spelled(method: FullFT) -> str:
    """What a full fine-tuning says beside its name."""
    return method.name.removeprefix("full").removeprefix(":").replace(":", ", ")


def rate(value: float) -> str:
    """A learning rate: two digits."""
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e+")


def share(value: float) -> str:
    """A percentage with two digits."""
    return f"{100 * value:.2g} %" if value < 0.995 else f"{100 * value:.0f} %"


def money(value: float) -> str:
    """Dollars."""
    return f"${value:,.0f}" if value >= 100 else f"${value:.2f}" if value >= 0.01 else "under $0.01"
