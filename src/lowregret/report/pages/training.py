"""The page of one training by reward, and what a compare's by reward shares with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lowregret.errors import RecordsError
from lowregret.report.charts import words
from lowregret.report.charts.drawing import Figure
from lowregret.report.charts.rewards import Arm, Seed, bits_figure, reward_curves, sample_figures
from lowregret.report.charts.words import label
from lowregret.report.pages.document import document, figure, joined, reproduce, section
from lowregret.report.pages.replies import replies
from lowregret.report.pages.tables import definitions
from lowregret.report.pages.templates import render
from lowregret.report.pages.transcripts import failures, samples
from lowregret.report.pages.use import use
from lowregret.runs.atomic import read_record
from lowregret.runs.files import METRICS, SPEC, TRIAL
from lowregret.runs.lock import stored_spec
from lowregret.runs.metrics import read_metrics
from lowregret.runs.records import Metric, TrialRecord
from lowregret.spec import LoRA


def page(folder: Path) -> str:
    """The whole page of one training, the folder of `lowregret train --objective rl`.

    Raises RecordsError when the training had another objective, which leaves nothing to draw against.
    """
    trial = read_record(TrialRecord, folder / TRIAL)
    metrics = tuple(read_metrics(folder / METRICS))
    spoken = stored_spec(folder / SPEC)
    if not any(metric.rl is not None or metric.test_reward is not None for metric in metrics):
        raise RecordsError(
            f"{folder}: is one training, not a comparison. Name a folder of `lowregret compare` or `lowregret study`; "
            f"its {METRICS} has the loss of each step."
        )
    method, name = trial.spec.method, label(trial.spec.method)
    arms = [Arm(short(name), 0.6 if isinstance(method, LoRA) else None, (seed_of(trial, metrics),))]
    rewards = list(arms[0].seeds[0].reward.values())
    start = rewards[0] if rewards else None
    drawn = [
        Figure(
            "steps",
            "Reward against steps",
            reward_curves(arms, start),
            "Points are evaluations on held-out problems, the first one before training.",
        ),
        *sample_figures(arms),
        bits_figure(arms),
    ]
    asked = spoken["spec"]
    body = [
        _head(trial, name, rewards, asked),
        *(figure(one.key, one.title, one.chart.to_dict(), one.caption) for one in drawn),
        replies(folder, lambda _: name),
        samples([(f"{name} at {words.rate(trial.learning_rate)}, seed {trial.seed}", folder)]),
        failures([(trial.id, folder)]),
        use(folder, str(asked.get("model", "")), asked.get("batch_size")),
        section("reproduce", "Reproduce", reproduce(str(spoken.get("command", "")), asked)),
    ]
    return document(_headline(trial, rewards), str(spoken.get("lowregret", "")), joined(body))


def _headline(trial: TrialRecord, rewards: list[float]) -> str:
    if len(rewards) < 2 or not math.isfinite(rewards[-1]):
        return f"Held-out reward not known yet after {trial.steps} steps"
    return f"Held-out reward {words.nats(rewards[0])} → {words.nats(rewards[-1])} in {trial.steps} steps"


def _head(trial: TrialRecord, name: str, rewards: list[float], asked: Mapping[str, Any]) -> Markup:
    task = (asked.get("objective") or {}).get("task", "")
    rows = {
        "Method": name,
        "Learning rate": words.rate(trial.learning_rate),
        "Seed": str(trial.seed),
        "Status": trial.status if trial.error is None else f"{trial.status}: {trial.error}",
        "Tokens": f"{trial.tokens:,}",
        "Time": words.seconds(trial.seconds),
        "Trainable parameters": f"{trial.trainable_parameters:,}",
    }
    return render(
        "training",
        model=asked.get("model", ""),
        task=task,
        headline=_headline(trial, rewards),
        facts=definitions(rows),
    )


def short(said: str) -> str:
    """A label short enough for the end of a curve."""
    if said.startswith("Full"):
        return said.replace("Full fine-tuning", "FullFT")
    return said.removeprefix("LoRA (").removesuffix(")")


def seed_of(trial: TrialRecord, metrics: tuple[Metric, ...]) -> Seed:
    """A trial as an arm draws it."""
    return Seed(
        {m.step: m.test_reward for m in metrics if m.test_reward is not None},
        {m.step: m.rl for m in metrics if m.rl is not None},
        trial.trainable_parameters,
    )
