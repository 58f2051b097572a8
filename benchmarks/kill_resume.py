"""Kill small studies with SIGKILL at random moments, resume each, and compare its numbers with an uninterrupted run's.

    OMP_NUM_THREADS=2 python benchmarks/kill_resume.py --kills 20 --seed 0
    python benchmarks/kill_resume.py --kills 20 --seed 0 --devices 2

Each kill has a study of its own. The moments are spread over the whole life of the process, from the start of the
interpreter to the last record, loading included; every second resumed process is killed once more, and sometimes again,
before one is let through. LoRA trials train together, and others take the places of those that end. Each process draws
how often it writes a checkpoint: after every round, now and then, or not at all. So resumes begin at the start of a
pack, in the middle of one, and behind trials that have ended since. Compared are the verdict, every record, curve and
example loss, and the bytes of the winners' weights; left out are wall times, memory and the environment.

With --devices each study has so many ranks, one of which is killed, and what goes on has as many, or one alone. Where
all had as many, the numbers must be the same; where some had one, which adds up in another order, records must be the
same but for the last digits of their numbers (`APART`). A rank 0 that has lost another must end by itself.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STUDY = (
    "compare --model tiny --data builtin:arithmetic:size=64 --methods lora:2,lora:5:mlp,full --seeds 2 --steps 5 "
    "--batch-size 4 --max-train 32 --max-eval 8 --evals 2 --quiet"
).split()
STUDY_OF_RANKS = (
    "compare --model tiny --data builtin:arithmetic:size=64 --methods lora:2,lora:5:mlp,full --seeds 1 --steps 5 "
    "--learning-rates 1e-4,1e-3 --batch-size 4 --max-train 32 --max-eval 8 --evals 2 --replies 0 --quiet"
).split()
"""Of several processes, each of which is loaded anew after a kill."""
ENDS_WITHIN = 60.0
"""Seconds that rank 0 is given to end after another was killed, loading included."""
APART = 1e-3
"""Of a number, where a part of a study had another count of devices."""
CHECKPOINT_SECONDS = ("0", "0.3", "60")
_NOT_REPEATABLE = (
    "seconds",
    "alone_seconds",
    "evaluation_seconds",
    "peak_memory_bytes",
    "shared_seconds",
    "shared_seconds_alone",
    "packing_gain",
    "seconds_left_out",
    "alternative",
    "environment",
    "sessions",
    "command",
    "checkpoint_seconds",
    "devices",
)
_OF_TIME = ("peak memory", "Packing: ", "Stopping early: ", "would settle it", "of that length takes")


@dataclass(frozen=True)
class Kill:
    """A process that did not live to the end of its study."""

    seconds: float
    """After its start."""
    trials: int
    """Ended by then, those of earlier processes included."""
    steps: int
    """Recorded by then in all trials."""

    ended: float = 0.0
    """Seconds that rank 0 took to end after another was killed."""

    def __str__(self) -> str:
        if not (self.trials or self.steps):
            return f"{self.seconds:.2f} s (before the first step)"
        return f"{self.seconds:.2f} s ({self.trials} trials ended, {self.steps} steps)"


def start(out: Path, study: Sequence[str] = STUDY) -> subprocess.Popen[bytes]:
    """The command, verb and all, as a user would type it."""
    program = str(Path(sys.executable).with_name("lowregret"))
    defaults = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen(
        [program, *study, "--out", str(out)],
        env={**defaults, **os.environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(out: Path, study: Sequence[str] = STUDY) -> float:
    """Run the study to its end; returns its wall time in seconds."""
    began = time.monotonic()
    process = start(out, study)
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"the study in {out} ended with {process.returncode}:\n{errors.decode()}")
    return time.monotonic() - began


def kill_at(out: Path, seconds: float, study: Sequence[str] = STUDY, rank: int = 0) -> Kill | None:
    """Run the study and kill a rank of it so many seconds after its start; None when it ended first, and well.

    Rank 0 when there is no other yet.
    """
    process = start(out, study)
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        others = followers(process.pid) if rank else []
        began = time.monotonic()
        os.kill(others[0] if others else process.pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=ENDS_WITHIN if others else None)
        if others and process.returncode == 0:
            return None  # nothing was left to train
        if others and (process.returncode != 2 or b"SIGKILL" not in errors):
            raise SystemExit(f"rank 0 lost rank 1 and ended with {process.returncode}:\n{errors.decode()}") from None
        return Kill(seconds, *standing(out), time.monotonic() - began)
    if process.returncode:
        raise SystemExit(f"the study in {out} ended with {process.returncode}:\n{errors.decode()}")
    return None


def followers(pid: int) -> list[int]:
    """The processes of other ranks that a process has started (Linux)."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"parallel.follow" in Path(f"/proc/{child}/cmdline").read_bytes()]


def standing(out: Path) -> tuple[int, int]:
    """Trials ended and steps recorded."""
    records = [json.loads(path.read_text()) for path in out.glob("trials/*/trial.json")]
    curves = [path.read_bytes().count(b"\n") for path in out.glob("trials/*/metrics.jsonl")]
    return sum(record["status"] != "running" for record in records), sum(curves)


def numbers(out: Path) -> dict[str, Any]:
    """Everything in a finished study's folder that must repeat: records, curves, example losses and weights."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.suffix == ".json" and path.name not in ("tokenizer.json", "tokenizer_config.json"):
            found[name] = _repeatable(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            found[name] = [_repeatable(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.suffix == ".safetensors":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def apart(one: Any, other: Any) -> float:
    """The largest difference of two numbers in the same place, as a share of the larger one, or of 1 where both are
    smaller; infinite where anything but a number differs. Texts, which repeat numbers, and digests of weights may."""
    if isinstance(one, dict) and isinstance(other, dict):
        return (
            max((apart(one[key], other[key]) for key in one), default=0.0) if one.keys() == other.keys() else math.inf
        )
    if isinstance(one, list) and isinstance(other, list):
        pairs = zip(one, other, strict=False)
        return max((apart(*pair) for pair in pairs), default=0.0) if len(one) == len(other) else math.inf
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) / max(abs(one), abs(other), 1.0)
    return 0.0 if one == other or (isinstance(one, str) and isinstance(other, str)) else math.inf


def _repeatable(value: Any) -> Any:
    """Without wall times, memory and the environment; a reason in words that tells of them is left out too."""
    if isinstance(value, dict):
        return {key: _repeatable(item) for key, item in value.items() if key not in _NOT_REPEATABLE}
    if isinstance(value, list):
        kept = [item for item in value if not (isinstance(item, str) and any(words in item for words in _OF_TIME))]
        return [_repeatable(item) for item in kept]
    return value


def moments(count: int, life: float, generator: random.Random) -> list[float]:
    """One in each of `count` equal parts of a life, in random order: together they are uniform over it."""
    found = [life * (part + generator.random()) / count for part in range(count)]
    generator.shuffle(found)
    return found


def killed_and_resumed(
    out: Path, moment: float, life: float, generator: random.Random, devices: int = 1, after: int = 1
) -> Iterator[Kill]:
    """Kill a fresh study at a moment, go on with it, killing again now and then, and run it to its end.

    It begins on so many `devices`, one of which is killed, and goes on with so many `after` that.
    """

    def study(count: int) -> list[str]:
        seconds = generator.choice(CHECKPOINT_SECONDS)
        asked = STUDY if devices == 1 else STUDY_OF_RANKS
        return [*asked, "--checkpoint-seconds", seconds, *(["--devices", str(count)] if count > 1 else [])]

    def kill(moment: float, count: int) -> Kill | None:
        return kill_at(out, moment, study(count), generator.randrange(count) if count > 1 else 0)

    first = kill(moment, devices)
    while first is None:  # it was faster than the run that measured its life
        shutil.rmtree(out)
        moment *= 0.9
        first = kill(moment, devices)
    yield first
    while generator.random() < 0.5 and (again := kill(life * generator.random(), after)):
        yield again
    finish(out, study(after))


def main() -> int:
    """Print one line a kill and how many studies ended with the uninterrupted run's numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="studies to kill (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="draws the moments (default 0)")
    parser.add_argument("--devices", type=int, default=1, help="ranks of a study, one of which is killed (default 1)")
    asked = parser.parse_args()
    study = [*STUDY_OF_RANKS, "--devices", str(asked.devices)] if asked.devices > 1 else STUDY
    generator = random.Random(asked.seed)
    identical = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        life = finish(folder / "whole", study)
        expected = numbers(folder / "whole")
        trials, steps = standing(folder / "whole")
        print(f"uninterrupted: {life:.2f} s, {trials} trials, {steps} steps", flush=True)
        for number, moment in enumerate(moments(asked.kills, life, generator), start=1):
            out = folder / f"killed-{number}"
            after = 1 if number % 2 else asked.devices
            kills = list(killed_and_resumed(out, moment, life, generator, asked.devices, after))
            found = numbers(out)
            off = 0.0 if found == expected else apart(expected, found)
            same = found == expected if after == asked.devices else off <= APART
            identical += same
            if asked.devices > 1:
                late = max(kill.ended for kill in kills)
                print(f"     went on with {after}; off by {off:.1e}; rank 0 ended at most {late:.1f} s after another")
            said = ", then at ".join(map(str, kills))
            print(f"{number:3}: killed at {said}: {'identical' if same else 'DIFFERENT'}", flush=True)
            shutil.rmtree(out)
    print(f"{identical} of {asked.kills} identical")
    return 0 if identical == asked.kills else 1


if __name__ == "__main__":
    sys.exit(main())
