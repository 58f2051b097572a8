"""How well a parabola through the best rate tried and its neighbours says how low the loss lies between them.

    python -m benchmarks.bowls run --out runs/bowls      # goes on where it was stopped
    python -m benchmarks.bowls table --out runs/bowls

Every rate of a lattice of factors of √2 is trained. Each rate that ends lower than both a factor of 2 away has a bowl;
what `Bowl` says of it is held against the lowest loss of the five rates in between and at its ends. Errors are shares
of what training learned. A bowl with a side that rises by more than a share of it may be left out (`Bowl.around`); the
table is of several such shares.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowregret.analysis.bowl import Bowl
from lowregret.analysis.place import Place

SETTINGS = {
    "facts": ("tiny", "builtin:biographies:size=32,wordings=6", 120),
    "facts long": ("tiny", "builtin:biographies:size=32,wordings=6,seed=1", 360),
    "facts narrow": ("tiny-32", "builtin:biographies:size=32,wordings=6,seed=2", 240),
    "sums": ("tiny", "builtin:arithmetic", 60),
    "sums narrow": ("tiny-32", "builtin:arithmetic", 120),
    "lists": ("tiny", "builtin:instructions", 60),
}
"""Name → base, data, steps of 8."""
METHODS = ("full", "lora:4", "lora:16")
LOWEST, RATES = 1.5e-4, 17
"""The lattice, of factors of √2."""
SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1.0, math.inf)


@dataclass(frozen=True)
class Told:
    """One bowl: what it says and what was found, as shares of what training learned."""

    name: str
    rise: float
    """Of the steeper side."""
    other: float
    parabola: float
    found: float
    said: Place
    """Where the bottom lies, in doublings from the middle rate."""
    lies: float
    """Where the bottom of the bowl around the lowest of the five rates does, by that one's neighbours a factor of √2
    away; where these are a wall, the rate itself."""

    def error(self, most: float) -> float:
        """Depth said minus depth found, where a side that rises by more than `most` is no part of a parabola."""
        return (self.parabola if self.rise <= most else 0.0) - self.found


def run(out: Path) -> None:
    """Every rate of every setting and method."""
    rates = ",".join(f"{LOWEST * math.sqrt(2) ** place:.4g}" for place in range(RATES))
    for name, (model, data, steps) in SETTINGS.items():
        folder = out / name.replace(" ", "-")
        if (folder / "verdict.json").exists():
            continue
        words = ("--model", model, "--data", data, "--steps", str(steps), "--methods", ",".join(METHODS), "--seeds",
            "1", "--learning-rates", rates, "--prune", "off", "--evals", "1", "--replies", "0", "--max-length", "128",
            "--max-eval", "128", "--out", str(folder), "--quiet")  # fmt: skip
        print(folder, flush=True)
        subprocess.run([sys.executable, "-m", "lowregret", "compare", *words], check=True, stdout=subprocess.PIPE)
        for weights in folder.glob("**/*.safetensors"):
            weights.unlink()


def bowls(folder: Path) -> Iterator[Told]:
    """Those of one setting's methods."""
    base = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))["base_nll"]
    trials = [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("trials/*/trial.json")]
    for method in METHODS:
        ended = sorted((trial["learning_rate"], trial["test_nll"]) for trial in trials if trial["method"] == method)
        yield from bowls_of(f"{folder.name} {method}", base, [math.inf if loss is None else loss for _, loss in ended])


def bowls_of(name: str, base: float, losses: Sequence[float]) -> Iterator[Told]:
    """Those of one method: its losses in the order of the lattice."""
    learned = base - min(losses)
    for place in range(2, len(losses) - 2):
        below, at, above = losses[place - 2], losses[place], losses[place + 2]
        if at <= min(below, above) and math.isfinite(max(below, above)) and learned > 0:
            lowest = min(losses[place - 2 : place + 3])
            sides = sorted(((below - at) / learned, (above - at) / learned))
            depth = Bowl(at, below, above).bottom().depth
            said = Bowl.around(at, below, above, start=base).place()
            finest = losses.index(lowest, place - 2)
            around = Bowl.around(lowest, losses[finest - 1], losses[finest + 1], 0.5, 0.5, start=base).place()
            lies = (finest - place) / 2 + around.at
            yield Told(name, sides[1], sides[0], depth / learned, (at - lowest) / learned, said, lies)


def table(found: Sequence[Told]) -> Iterator[str]:
    """Errors by how much a side may rise."""
    yield f"{len(found)} bowls"
    yield ""
    yield "| a side may rise by | mean error | absolute | root of squares | deepest error |"
    yield "|---|---|---|---|---|"
    for most in SHARES:
        errors = [each.error(most) for each in found]
        squares = math.sqrt(statistics.fmean(error**2 for error in errors))
        cells = (statistics.fmean(errors), statistics.fmean(map(abs, errors)), squares, max(errors))
        yield f"| {most:g} | " + " | ".join(f"{cell:+.4f}" for cell in cells) + " |"
    yield ""
    yield "| the bottom's place | bowls | off by, root of squares, doublings | farthest | within what is said |"
    yield "|---|---|---|---|---|"
    for name, wall in (("by the parabola", False), ("beside a wall", True)):
        own = [each for each in found if (each.said.give > 0) == wall]
        away = [each.lies - each.said.at for each in own]
        squares = math.sqrt(statistics.fmean(off**2 for off in away)) if away else math.nan
        held = sum(abs(off) <= each.said.give for off, each in zip(away, own, strict=True)) if wall else ""
        yield f"| {name} | {len(own)} | {squares:.2f} | {max(away, key=abs, default=0):+.2f} | {held} |"
    yield ""
    yield "| bowl | steeper side | other side | parabola | found | place said | found |"
    yield "|---|---|---|---|---|---|---|"
    for each in sorted(found, key=lambda told: told.rise):
        place = f"{each.said.at:+.2f}" + (f" ± {each.said.give:g}" if each.said.give else "")
        shares = " | ".join(f"{share:.4f}" for share in (each.rise, each.other, each.parabola, each.found))
        yield f"| {each.name} | {shares} | {place} | {each.lies:+.2f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=("run", "table"))
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    if asked.part == "run":
        run(asked.out)
    folders = sorted(file.parent for file in asked.out.glob("*/verdict.json"))
    print("\n".join(table([told for folder in folders for told in bowls(folder)])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
