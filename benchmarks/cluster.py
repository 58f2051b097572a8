"""A study on several engines: killed at random, timed beside each other, and the scheduler alone.

    python -m benchmarks.cluster throughput                 # 10,000 trials that nobody trains: events a second
    python -m benchmarks.cluster kills --kills 50           # workers, nodes and drivers of a Ray cluster of two nodes
    python -m benchmarks.cluster times --rounds 3           # `study all --quick` by two processes and two Ray workers
    python -m benchmarks.cluster times --study learning-rate    # one of its questions

Kills take about forty minutes on two cores, a round of times an hour and a quarter, of one question some ten minutes;
they want a machine with nothing else running. What is done is kept in build/cluster.jsonl, and a later start goes on;
docs/results/cluster.json has the summary. Needs lowregret[cluster].
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from benchmarks.kill_resume import numbers, start
from benchmarks.ray_nodes import Nodes, cluster

from lowregret.questions.registry import make_question
from lowregret.runs.holder import holder_of
from lowregret.runs.records import TrialRecord
from lowregret.spec import GroupSpec, LoRA, TrialSpec
from lowregret.strict_json import to_json
from lowregret.study.execute.job import Ended, GroupJob, Needs, Outcome, Task
from lowregret.study.execute.run import GroupRun
from lowregret.study.lattice import group_trials
from lowregret.study.observer import Silent
from lowregret.study.order import in_order

HERE = Path(__file__).parents[1]
DONE = HERE / "build" / "cluster.jsonl"
RESULT = HERE / "docs" / "results" / "cluster.json"
QUICK = "study learning-rate --quick --seeds 1 --ranks 1,4 --steps 20 --quiet".split()
"""Of the kills: a whole study, two groups of some fifteen trials, of which fifty take about forty minutes."""
TRIALS, WORKERS = 10_000, 64
_OF_KILLS = ("kills", "met", "same", "by")
_OF_TIMES = ("study", "rounds", "seconds", "ratio", "trials", "overhead_seconds_per_trial", "ray_bytes")


def throughput() -> dict[str, Any]:
    """Trials that the search asks for and settles, and groups that the engine is given, a second of processor time."""
    began, events = time.process_time(), 0
    group = make_question({"kind": "learning-rate"}).groups()[0]
    while events < TRIALS:
        events += searched(group, random.Random(events))
    search = events / (time.process_time() - began)
    with tempfile.TemporaryDirectory() as name:
        jobs = [
            GroupJob(Path(name) / "groups" / f"g{n}", group, f"g{n}", None, Needs(1 + n % 3), float(n % 97))
            for n in range(TRIALS)
        ]
        began = time.process_time()
        run = GroupRun(_Played(), Silent(), lambda: False, starts=lambda job: {}, ended=lambda job: ())
        run.run(in_order(jobs, WORKERS))
        given = TRIALS / (time.process_time() - began)
    return {"trials": events, "trial_events_per_second": search, "groups": TRIALS, "groups_per_second": given}


def searched(group: GroupSpec, draw: random.Random) -> int:
    """How many trials a search on made-up losses takes, each of which ends by itself and is one event."""
    records: list[TrialRecord] = []
    priors = {method.name: 1e-3 * 2 ** draw.randint(-3, 3) for method in group.methods}
    while wanted := group_trials(group, priors, records, lambda record: {}):
        records.append(TrialRecord.of(wanted[0], status="finished", test_nll=_loss(wanted[0], draw)))
    return len(records)


def _loss(trial: TrialSpec, draw: random.Random) -> float:
    best = 6e-3 if isinstance(trial.method, LoRA) else 1e-3
    return 2 + (trial.learning_rate / best - 1) ** 2 + draw.gauss(0, 1e-3)


class _Played:
    """An engine with room for so many, of which all end at the next look."""

    name, watches = "a play", True

    def __init__(self) -> None:
        self._running: list[Task] = []

    def has_room(self, needs: Needs) -> bool:
        return len(self._running) < WORKERS

    def submit(self, task: Task) -> None:
        self._running.append(task)

    def events(self, seconds: float) -> Sequence[Ended]:
        found, self._running = [Ended(task, Outcome("done")) for task in self._running], []
        return found

    def cancel(self) -> None: ...
    def close(self) -> None: ...


def kills(folder: Path, count: int, seed: int, known: set[str]) -> Iterator[dict[str, Any]]:
    """Studies, each met by a kill of a worker, a node or the driver at a random moment, and gone on with."""
    keys = [f"kill {number} of {' '.join(QUICK)}" for number in range(count)]
    if known.issuperset(keys):
        return
    whole = folder / "whole"
    finish(start(whole, [*QUICK, "--workers", "2"]))
    expected = numbers(whole)
    with cluster(folder, 2) as nodes:
        began = time.monotonic()
        finish(start(folder / "timed", [*QUICK, "--ray", nodes.address]))
        life = time.monotonic() - began
    with ExitStack() as stack:
        up: list[Nodes] = []
        for number, key in enumerate(keys):
            draw = random.Random(f"{seed} {number}")
            what, moment = draw.choice(["worker", "node", "driver"]), life * draw.random()
            if key in known:
                continue
            out = folder / "killed"
            shutil.rmtree(out, ignore_errors=True)
            if not up:
                up.append(stack.enter_context(cluster(folder, 2)))
            met = meet(out, up[0], what, moment)
            if len(up[0].nodes) < 2:
                stack.close()
                up.clear()
            same = numbers(out) == expected
            yield {"key": key, "what": what, "moment": moment, "met": met, "same": same, "repeated": repeated(out)}


def meet(out: Path, nodes: Nodes, what: str, moment: float) -> bool:
    """Run the study to its end, with one kill on the way; False when it was over before."""
    command = [*QUICK, "--ray", nodes.address]
    process = start(out, command)
    with suppress(subprocess.TimeoutExpired):
        process.wait(moment)
    met = process.poll() is None
    if met and what == "driver":
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = start(out, command)
    elif met and what == "node":
        nodes.kill()
    elif met:
        holders = [holder_of(lock.parent) for lock in out.glob("groups/*/.lock")]
        pids = [holder.pid for holder in holders if holder is not None]
        met = bool(pids)
        if pids:
            os.kill(pids[0], signal.SIGKILL)
    finish(process)
    return met


def repeated(out: Path) -> int:
    """Attempts at groups beyond one each, as the workers' logs tell."""
    logs = list(out.glob("logs/*.txt"))
    return sum(log.read_text().count(" begins on ") for log in logs) - len(logs)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a study; SystemExit when it did not end well."""
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"a study ended with {process.returncode}:\n{errors.decode()}")


def times(folder: Path, rounds: int, study: str, known: set[str]) -> Iterator[dict[str, Any]]:
    """`study STUDY --quick` by each engine, in turns."""
    asked = ["study", study, "--quick", "--quiet"]
    for number in range(rounds):
        for engine in ("processes", "ray"):
            key = f"time {study} {engine} {number}"
            if key in known:
                continue
            out = folder / "timed"
            shutil.rmtree(out, ignore_errors=True)
            began, memory = time.monotonic(), 0
            if engine == "processes":
                finish(start(out, [*asked, "--workers", "2"]))
            else:
                with cluster(folder, 2) as nodes:
                    began = time.monotonic()
                    process = start(out, [*asked, "--ray", nodes.address])
                    time.sleep(60)
                    memory = nodes.memory()
                    finish(process)
            seconds = time.monotonic() - began
            trials = sum(1 for _ in out.glob("**/groups/*/trials/*/trial.json"))
            yield {
                "key": key,
                "study": study,
                "engine": engine,
                "seconds": seconds,
                "trials": trials,
                "ray_bytes": memory,
            }


def summary(rows: Sequence[dict[str, Any]], study: str = "all") -> dict[str, Any]:
    """What there is so far; of times, those of one study."""
    killed = [row for row in rows if "same" in row]
    timed = [row for row in rows if row.get("study") == study]
    taken = {engine: [row for row in timed if row["engine"] == engine] for engine in ("processes", "ray")}
    found: dict[str, Any] = {
        "kills": len(killed),
        "met": sum(row["met"] for row in killed),
        "same": sum(row["same"] for row in killed),
        "by": {what: sum(row["what"] == what for row in killed) for what in ("worker", "node", "driver")},
        "throughput": next((row for row in reversed(rows) if "groups_per_second" in row), None),
    }
    if all(taken.values()):
        local, ray = (statistics.median(row["seconds"] for row in taken[name]) for name in ("processes", "ray"))
        trials = taken["ray"][0]["trials"]
        found |= {"study": study, "rounds": len(taken["ray"])}
        found |= {"seconds": {"processes": local, "ray": ray}, "ratio": ray / local, "trials": trials}
        found |= {"overhead_seconds_per_trial": (ray - local) / trials}
        found |= {"ray_bytes": max(row["ray_bytes"] for row in taken["ray"])}
    return found


def with_before(found: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """What this machine's build/ has no rows of stays as another machine has found it."""
    lacking = [] if found["kills"] else list(_OF_KILLS)
    lacking += [] if found["throughput"] else ["throughput"]
    lacking += [] if "ratio" in found else list(_OF_TIMES)
    return found | {name: before[name] for name in lacking if name in before}


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 when a study that was killed ended with other numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["throughput", "kills", "times"])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--study", default="all", help="of times: which, all by default")
    parser.add_argument("--seed", type=int, default=0, help="draws what is killed, and when")
    asked = parser.parse_args(arguments)
    DONE.parent.mkdir(exist_ok=True)
    rows = [json.loads(line) for line in DONE.read_text().splitlines()] if DONE.exists() else []
    known = {row["key"] for row in rows}
    makers: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
        "throughput": lambda folder: iter([{"key": f"throughput {time.time():.0f}", **throughput()}]),
        "kills": lambda folder: kills(folder, asked.kills, asked.seed, known),
        "times": lambda folder: times(folder, asked.rounds, asked.study, known),
    }
    with tempfile.TemporaryDirectory() as name, DONE.open("a") as file:
        for row in makers[asked.what](Path(name).resolve()):
            rows.append(row)
            file.write(to_json(row) + "\n")
            file.flush()
            print(to_json(row), flush=True)
    found = summary(rows, asked.study)
    before = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    RESULT.write_text(to_json(with_before(found, before), indent=2) + "\n")
    return 0 if all(row.get("same", True) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
