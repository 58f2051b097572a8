"""How long `lowregret --help` and `lowregret plan` take: the median of ten starts, and the slowest imports.

    python benchmarks/startup.py

The figures to hold on a quiet machine are under 0.4 s for every help, and under 0.5 s for the plan of a model of the
catalogue.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

_COMMANDS = (
    ("--help",),
    ("compare", "--help"),
    ("train", "--help"),
    ("study", "--help"),
    ("plan", "qwen3-8b", "--hardware", "H100"),
    ("plan", "qwen3-8b", "--json"),
)


def wall_times(command: tuple[str, ...], runs: int) -> list[float]:
    """Seconds from start to exit of a `lowregret` command, one run after the other."""
    program = str(Path(sys.executable).with_name("lowregret"))
    found = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run([program, *command], stdout=subprocess.DEVNULL, check=True)
        found.append(time.perf_counter() - began)
    return found


def slowest_imports(command: tuple[str, ...], count: int) -> list[tuple[str, float]]:
    """(package, seconds of its own modules), the slowest first, by `python -X importtime`."""
    program = f"import sys; sys.argv = {['lowregret', *command]}; from lowregret.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program], capture_output=True, text=True, check=True
    )
    totals: dict[str, float] = {}
    for line in done.stderr.splitlines():
        own, _, name = line.removeprefix("import time:").replace("|", " ", 1).strip().partition(" ")
        if own.isdecimal():
            package = name.split("|")[-1].strip().partition(".")[0]
            totals[package] = totals.get(package, 0.0) + int(own) / 1e6
    return sorted(totals.items(), key=lambda item: -item[1])[:count]


def main() -> None:
    """Print the median, the extremes and the load of the machine, then the imports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    for command in _COMMANDS:
        times = wall_times(command, runs)
        print(
            f"lowregret {' '.join(command)}: median {statistics.median(times):.3f} s of {runs} "
            f"({min(times):.3f} to {max(times):.3f}), load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        )
        for package, seconds in slowest_imports(command, 6):
            print(f"  {package:<16}{seconds:.3f} s")


if __name__ == "__main__":
    main()
