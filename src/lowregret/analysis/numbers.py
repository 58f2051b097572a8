"""How a loss is written for people."""

from __future__ import annotations


def nats(value: float, sign: bool = False) -> str:
    """Four decimals, or two significant digits where four decimals would hide the number: 0.0229, 0.00048, 3.1e-05."""
    if value != 0 and abs(value) < 5e-4:
        return f"{value:+.2g}" if sign else f"{value:.2g}"
    return f"{value:+.4f}" if sign else f"{value:.4f}"
