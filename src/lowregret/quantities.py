"""How durations, bytes and large counts are written for people."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Two digits and a unit that fits."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}" if seconds < 99.5 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.2g} s"


def byte_count(value: float) -> str:
    """43.6 GB, in units of 1,000."""
    return _scaled(value, ("B", "kB", "MB", "GB", "TB"))


def bits(value: float) -> str:
    """1.2 Mbit."""
    return _scaled(value, ("bit", "kbit", "Mbit", "Gbit", "Tbit"))


def count(value: float) -> str:
    """Three digits and a unit: 43.6 M."""
    return _scaled(value, ("", "k", "M", "B", "T")).strip()


def _scaled(value: float, units: tuple[str, ...]) -> str:
    power = 0
    # 999.5 would be shown as 1e+03 in three digits, so it goes to the next unit already.
    while value >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {units[power]}"
