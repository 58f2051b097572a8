"""Numbers and methods as people read them. Torch-free."""

from __future__ import annotations

from lowregret.spec import FullFT, LoRA


def count(value: float) -> str:
    """Three digits and a unit: 43.6 M."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def bits(value: float) -> str:
    """1.2 Mbit."""
    for size, unit in ((1e12, "Tbit"), (1e9, "Gbit"), (1e6, "Mbit"), (1e3, "kbit")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} bit"


def describe(method: FullFT | LoRA) -> str:
    """A method in a sentence."""
    if isinstance(method, FullFT):
        return "full fine-tuning"
    base = "" if method.quantisation == "none" else f", over a base in {method.quantisation.upper()}"
    return f"LoRA of rank {method.rank} on {' + '.join(method.targets)}{base}"


def rate(value: float) -> str:
    """A learning rate: two digits."""
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e+")


def share(value: float) -> str:
    """A percentage with two digits."""
    return f"{100 * value:.2g} %" if value < 0.995 else f"{100 * value:.0f} %"


def byte_count(value: float) -> str:
    """43.6 GB, in units of 1,000."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def money(value: float) -> str:
    """Dollars."""
    return f"${value:,.0f}" if value >= 100 else f"${value:.2f}" if value >= 0.01 else "under $0.01"
