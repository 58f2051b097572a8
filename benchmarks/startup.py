"""How long `lowregret --help` takes: the median of ten starts, and the modules that take longest to import.

    python benchmarks/startup.py

The figure to hold is under 0.4 s on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

_HELP = "import sys; sys.argv = ['lowregret', '--help']; from lowregret.cli.main import main; main()"


def wall_times(runs: int) -> list[float]:
    """Seconds from start to exit of `lowregret --help`, one run after the other."""
    program = str(Path(sys.executable).with_name("lowregret"))
    found = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run([program, "--help"], stdout=subprocess.DEVNULL, check=True)
        found.append(time.perf_counter() - began)
    return found


def slowest_imports(count: int) -> list[tuple[str, float]]:
    """(package, seconds of its own modules), the slowest first, by `python -X importtime`."""
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", _HELP], capture_output=True, text=True, check=True)
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
    times = wall_times(runs)
    print(
        f"lowregret --help: median {statistics.median(times):.3f} s of {runs} "
        f"(from {min(times):.3f} to {max(times):.3f}), load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    for package, seconds in slowest_imports(6):
        print(f"  {package:<16}{seconds:.3f} s")


if __name__ == "__main__":
    main()
