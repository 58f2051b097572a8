"""Studies that nobody trained: the runner's search, fed with losses by a formula, leaving the runner's files."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lowregret.questions.compute.spec import ComputeQuestion
from lowregret.questions.evidence import read_evidence
from lowregret.questions.judge import judge_study
from lowregret.questions.question import Question
from lowregret.questions.registry import Asked, statements
from lowregret.runs.atomic import write_json
from lowregret.runs.metrics import append_metric
from lowregret.runs.records import ExampleLosses, ExampleRewards, Metric, RewardMetric, TrialRecord
from lowregret.spec import RL, GroupSpec, LoRA, TrialSpec
from lowregret.study.lattice import group_trials
from lowregret.version import __version__

EXAMPLES = 16
SAMPLES = RewardMetric(
    reward=0.5, pass_rate=0.5, length=9, truncated=0, entropy=0.1, groups=2, dropped_groups=0, bits=16.0
)
Loss = Callable[[GroupSpec, TrialSpec, int], float]
"""(group, trial, step) → held-out loss."""


def u_shaped(group: GroupSpec, trial: TrialSpec, step: int) -> float:
    """Best at 1e-3 for FullFT and at 6e-3 for LoRA; falls with log steps; a little noise between seeds."""
    best = 6e-3 if isinstance(trial.method, LoRA) else 1e-3
    off = math.log2(trial.learning_rate / best)
    noise = random.Random(f"{trial.id} {group.condition}").gauss(0, 0.002)
    return 2.0 - 0.2 * math.log(step + 1) + 0.02 * off**2 + noise


def make(folder: Path, question: Question, loss: Loss = u_shaped) -> int:
    """Leave a finished study in `folder`; returns how many trials were added."""
    head(folder, question)
    added = sum(train(folder / "groups" / group.key, group, loss) for group in question.groups())
    if isinstance(question, ComputeQuestion):
        for width in question.widths:
            _timing(folder / "timings", question, width)
    write_json(folder / "claims.json", judge_study(read_evidence(folder)))
    return added


def head(folder: Path, question: Question) -> None:
    """A study's study.json."""
    asked = Asked(question=question).model_dump(mode="json")  # type: ignore[arg-type]
    stated = [statement.model_dump(mode="json") for statement in statements(question)]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "study.json", {"lowregret": __version__, "command": "lowregret study fake", **asked, "claims": stated}
    )


def train(home: Path, group: GroupSpec, loss: Loss) -> int:
    """What a group of a study still lacks; returns how many trials that was."""
    home.mkdir(parents=True, exist_ok=True)
    start = {"objective": "rl"} if isinstance(group.objective, RL) else {"test_nll": 2.0, "test_tokens": EXAMPLES}
    base = start | {"hidden_size": 128, "forgetting_nll": 1.0, "fact_bits": 40.0}
    write_json(home / "base.json", base | {"hidden_size": 64 if "64" in group.model else 128})
    priors = {method.name: 2e-3 for method in group.methods}
    write_json(home / "priors.json", priors)
    added = 0
    while True:
        records = [_read(path) for path in sorted(home.glob("trials/*/trial.json"))]
        wanted = group_trials(group, priors, records, lambda record: _curve(home, record))
        if not wanted:
            return added
        for trial in wanted:
            _trial(home / "trials" / trial.id, group, trial, loss)
            added += 1


def _read(path: Path) -> TrialRecord:
    return TrialRecord.model_validate_json(path.read_bytes())


def _curve(home: Path, record: TrialRecord) -> dict[int, float]:
    lines = (home / "trials" / record.id / "metrics.jsonl").read_text().splitlines()
    found = [Metric.model_validate_json(line) for line in lines]
    return {metric.step: loss for metric in found if (loss := metric.test_loss) is not None}


def _trial(home: Path, group: GroupSpec, trial: TrialSpec, loss: Loss) -> None:
    home.mkdir(parents=True)
    assert isinstance(group.evals, tuple)
    rewarded = isinstance(group.objective, RL)
    for step in (0, *group.evals) if rewarded else group.evals:
        nll = loss(group, trial, step)
        found = {"test_reward": -nll, "rl": SAMPLES} if rewarded else {"train_nll": nll, "test_nll": nll}
        append_metric(home / "metrics.jsonl", Metric(step=step, tokens=step, seconds=step, **found))
    draw = random.Random(trial.id)
    spread = [draw.uniform(0.9, 1.1) for _ in range(EXAMPLES)]
    final = loss(group, trial, group.steps or 1)
    sums = tuple(final * EXAMPLES * part / sum(spread) for part in spread)
    ones, rewards = (1,) * EXAMPLES, tuple(-part for part in sums)
    found = ExampleRewards(rewards=rewards, samples=1, tokens=ones) if rewarded else None
    write_json(home / "examples.json", found or ExampleLosses(nll_sums=sums, tokens=ones))
    write_json(home / "forgetting.json", {"test_nll": 1.2})
    record = TrialRecord.of(
        trial,
        status="finished",
        test_nll=None if rewarded else math.fsum(sums) / EXAMPLES,
        test_reward=-math.fsum(sums) / EXAMPLES if rewarded else None,
        steps=group.steps or 1,
        seconds=1.0,
        trainable_parameters=100 * trial.method.rank if isinstance(trial.method, LoRA) else 10**6,
    )
    write_json(home / "trial.json", record)


def _timing(folder: Path, question: ComputeQuestion, width: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    theory = {str(rank): (2 * width + 6 * rank) / (3 * width) for rank in question.ranks}
    found: dict[str, Any] = {
        "width": width,
        "full_seconds": [1.0, 1.02, 0.99],
        "lora_seconds": {rank: [value, 1.01 * value, value] for rank, value in theory.items()},
        "full_bytes": 1600,
        "lora_bytes": {rank: 400 + int(rank) for rank in theory},
        "theory": theory,
    }
    write_json(folder / f"width-{width:05}.json", found)
