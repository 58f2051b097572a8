"""The page of one training, and what a compare's by reward shares with it."""

from __future__ import annotations

import math
from pathlib import Path

from markupsafe import Markup

from lowregret.quantities import duration
from lowregret.report.charts import words
from lowregret.report.charts.drawing import Figure
from lowregret.report.charts.rewards import Arm, Seed, bits_figure, reward_curves, sample_figures
from lowregret.report.charts.training import gradient_figure, loss_figure
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
    """The whole page of one training, the folder of `lowregret train`.

    Raises RecordsError when a record is missing or damaged.
    """
    trial = read_record(TrialRecord, folder / TRIAL)
    metrics = tuple(read_metrics(folder / METRICS))
    spoken = stored_spec(folder / SPEC)
    asked, name = spoken["spec"], label(trial.spec.method)
    shade = 0.6 if isinstance(trial.spec.method, LoRA) else None
    source = (asked.get("objective") or {}).get("task")
    if source is not None:
        arms = [Arm(short(name), shade, (seed_of(trial, metrics),))]
        headline, drawn = _rewards(trial, arms)
    else:
        source = (asked.get("data") or {}).get("train", "")
        headline, drawn = _held_out(trial), [loss_figure(metrics, shade), gradient_figure(metrics, shade)]
    body = [
        _head(trial, name, headline, f"{asked.get('model', '')} on {source}"),
        *(figure(one.key, one.title, one.chart.to_dict(), one.caption) for one in drawn),
        replies(folder, lambda _: name),
        samples([(f"{name} at {words.rate(trial.learning_rate)}, seed {trial.seed}", folder)]),
        failures([(trial.id, folder)]),
        use(folder, str(asked.get("model", "")), asked.get("batch_size")),
        section("reproduce", "Reproduce", reproduce(str(spoken.get("command", "")), asked)),
    ]
    return document(headline, str(spoken.get("lowregret", "")), joined(body))


def _rewards(trial: TrialRecord, arms: list[Arm]) -> tuple[str, list[Figure]]:
    """What a training by reward came to, and its figures."""
    rewards = list(arms[0].seeds[0].reward.values())
    drawn = [
        Figure(
            "steps",
            "Reward against steps",
            reward_curves(arms, rewards[0] if rewards else None),
            "Points are evaluations on held-out problems, the first one before training.",
        ),
        *sample_figures(arms),
        bits_figure(arms),
    ]
    if len(rewards) < 2 or not math.isfinite(rewards[-1]):
        return f"Held-out reward not known yet after {trial.steps} steps", drawn
    return f"Held-out reward {words.nats(rewards[0])} → {words.nats(rewards[-1])} in {trial.steps} steps", drawn


def _held_out(trial: TrialRecord) -> str:
    """What a training by example came to."""
    if trial.test_nll is None or not math.isfinite(trial.test_nll):
        return f"Held-out loss not known after {trial.steps} steps"
    return f"Held-out loss {words.nats(trial.test_nll)} nats per supervised token after {trial.steps} steps"


def _head(trial: TrialRecord, name: str, headline: str, about: str) -> Markup:
    rows = {
        "Method": name,
        "Learning rate": words.rate(trial.learning_rate),
        "Seed": str(trial.seed),
        "Status": trial.status if trial.error is None else f"{trial.status}: {trial.error}",
        "Tokens": f"{trial.tokens:,}",
        "Time": duration(trial.seconds),
        "Trainable parameters": f"{trial.trainable_parameters:,}",
    }
    if trial.test_nll is not None:
        rows["Perplexity"] = words.perplexity(trial.test_nll)
        rows["Held out"] = f"{trial.test_examples:,} examples, {trial.test_tokens:,} supervised tokens"
    return render("training", about=about, headline=headline, facts=definitions(rows))


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
