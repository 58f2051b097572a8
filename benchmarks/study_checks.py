"""Three figures of the studies, each resumable.

    python benchmarks/study_checks.py grid  --out runs/check-grid    # best rates against a grid of 12
    python benchmarks/study_checks.py speed --out runs/check-speed  # `study rank --quick` against its trials one by one
    python benchmarks/study_checks.py kills --out runs/check-kills   # 10 kills at random, the same claims to the digit

`grid`: 4 methods (rank 1, 4, 64, FullFT), the learning-rate question's condition. The dense grid spans a factor
of 2^5.5 around what the search found, in steps of √2, and is trained outright. `speed`: a sample of the study's trials,
each by `lowregret train` in a process of its own, scaled to all of them. `kills`: the same question at toy size.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lowregret.questions.evidence import read_evidence
from lowregret.questions.registry import make_question
from lowregret.spec import FullFT, GroupSpec
from lowregret.strict_json import to_json
from lowregret.study.group import run_group
from lowregret.study.observer import Silent
from lowregret.study.suite import run_studies

PROGRAM = str(Path(sys.executable).with_name("lowregret"))
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ, "HF_HUB_OFFLINE": "1"}
GRID = 12
STEP = math.sqrt(2)


def grid(out: Path, arguments: argparse.Namespace) -> None:
    """Search, then the dense grid, then both best rates side by side: those of the mean over the same seeds.

    With one seed the lowest of twelve losses is a matter of luck where a U-curve is flat: on rank 64 rates a factor of
    2 apart lay within 0.005 nats, less than seeds differ by.
    """
    seeds = arguments.seeds
    question = make_question({"kind": "learning-rate"}, quick=True, flags={"ranks": [1, 4, 64], "seeds": seeds})
    run_studies({out / "search": question}, observer=_Printing())
    condition = read_evidence(out / "search").conditions["main"]
    searched = sum(trial.record.seed == 0 for trial in condition.trials)
    print(
        f"search: {searched} trials with seed 0 and {len(condition.trials) - searched} with others; the grid: ", end=""
    )
    print(f"{GRID * len(condition.methods)} a seed, {GRID * len(condition.methods) * seeds} in all")
    for method in condition.methods:
        best = condition.best(method.name)
        assert best is not None
        assert best.fitted_rate is not None
        rates = tuple(float(f"{best.learning_rate * STEP ** (k - GRID // 2 + 0.5):.4g}") for k in range(GRID))
        kind = "full" if isinstance(method, FullFT) else "lora"
        template = next(group for group in question.groups() if group.key.endswith(kind))
        changes = {"methods": (method,), "learning_rates": rates, "condition": "grid", "prune": None, "seeds": seeds}
        spec = GroupSpec.model_validate(template.model_dump() | changes)
        home = out / "grid" / method.name.replace(":", "-")
        run_group(home, spec, {}, Silent(), lambda: False)
        records = [json.loads(path.read_text()) for path in home.glob("trials/*/trial.json")]
        losses: dict[float, list[float]] = {}
        for record in records:
            if record["status"] == "finished" and record["seed"] < seeds:
                losses.setdefault(record["learning_rate"], []).append(record["test_nll"])
        whole = {rate: sum(found) / seeds for rate, found in losses.items() if len(found) == seeds}
        dense = min(whole, key=lambda rate: whole[rate])
        found = best.fitted_rate.value
        factor = max(found / dense, dense / found)
        print(f"{method.name}: search {found:.3g}, grid {dense:.3g}, factor {factor:.2f}: {_verdict(factor <= 1.5)}")


def speed(out: Path, arguments: argparse.Namespace) -> None:
    """Wall time of the study against that of its trials one by one."""
    study, seconds = out / "study", out / "seconds.json"
    known: dict[str, float] = json.loads(seconds.read_text()) if seconds.exists() else {}
    if "study" not in known:
        shutil.rmtree(study, ignore_errors=True)  # a time of which half is missing is no time
        known["study"] = _timed(["study", "rank", "--quick", "--quiet", "--out", str(study)])
        seconds.write_text(to_json(known))
    evidence = read_evidence(study)
    trials = [(condition, run) for condition in evidence.conditions.values() for run in condition.trials]
    for condition, run in random.Random(0).sample(trials, min(arguments.sample, len(trials))):
        name = f"{condition.name} {run.record.id}"
        if name in known:
            continue
        spec = condition.spec.model_dump(mode="json", exclude_defaults=True)
        fields = {key: spec[key] for key in ("model", "data", "batch_size", "steps", "evals") if key in spec}
        recipe, home = out / "trial.toml", out / "trial"
        recipe.write_text(_toml(fields | {"method": run.record.method, "seed": run.record.seed}))
        shutil.rmtree(home, ignore_errors=True)
        rate = f"{run.record.learning_rate!r}"
        known[name] = _timed(["train", "--config", str(recipe), "--learning-rate", rate, "--out", str(home), "-q"])
        seconds.write_text(to_json(known))
    sampled = [value for name, value in known.items() if name != "study"]
    whole = sum(sampled) / len(sampled) * len(trials)
    share = known["study"] / whole
    print(f"study rank --quick: {known['study']:.0f} s for {len(trials)} trials")
    print(f"one by one: {whole:.0f} s (from {len(sampled)} of them); share {share:.2f}: {_verdict(share <= 1 / 3)}")


def kills(out: Path, arguments: argparse.Namespace) -> None:
    """Kill a study at random moments, let it end, and compare with one that was not killed."""
    toy = "--steps 6 --seeds 2 --ranks 1,4 --max-train 64 --max-eval 8 --batch-size 4 --workers 2 --quiet".split()
    command = ["study", "learning-rate", *toy]
    whole = out / "whole"
    life = _timed([*command, "--out", str(whole)])
    if (out / "life.json").exists():
        life = json.loads((out / "life.json").read_text())
    (out / "life.json").write_text(to_json(life))
    draw, killed, target = random.Random(arguments.seed), 0, out / "killed"
    shutil.rmtree(target, ignore_errors=True)
    while killed < arguments.kills:
        process = subprocess.Popen([PROGRAM, *command, "--out", str(target)], env=ENVIRONMENT)
        try:
            process.wait(timeout=life * draw.uniform(0.1, 0.9))
            shutil.rmtree(target)  # it got to its end: another life for the kills that are left
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
        process.wait()
    _timed([*command, "--out", str(target)])
    same = _claims(target) == _claims(whole)
    print(f"{killed} kills: {'the same claims' if same else 'OTHER CLAIMS'}: {_verdict(same)}")


def _claims(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "claims.json").read_text())
    found.pop("seconds")
    return found


def _timed(arguments: list[str]) -> float:
    began = time.monotonic()
    subprocess.run([PROGRAM, *arguments], env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def _toml(fields: dict[str, Any]) -> str:
    data = fields.pop("data")
    plain = [f"{key} = {to_json(value)}" for key, value in fields.items()]
    return "\n".join([*plain, "[data]", *(f"{key} = {to_json(value)}" for key, value in data.items())]) + "\n"


def _verdict(reached: bool) -> str:
    return "reached" if reached else "NOT REACHED"


class _Printing(Silent):
    """Lines as they come."""

    def say(self, line: str) -> None:
        print(line, flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", choices=["grid", "speed", "kills"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sample", type=int, default=8, help="trials that `speed` trains one by one")
    parser.add_argument("--seeds", type=int, default=3, help="of `grid`")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    {"grid": grid, "speed": speed, "kills": kills}[arguments.check](arguments.out, arguments)


if __name__ == "__main__":
    main()
