"""Pages of reinforcement learning: a compare's, with reward in place of loss, and that of one training."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from lowregret.errors import RecordsError
from lowregret.report import figures, rl_figures, words
from lowregret.report.html import document, figure, head, section, tail
from lowregret.report.reading import StudyRecords, finished, label
from lowregret.report.rl_figures import Arm, Seed, Sweep
from lowregret.report.rl_transcripts import failures, transcripts
from lowregret.report.study_figures import Figure
from lowregret.report.tables import definitions, text
from lowregret.runs.atomic import read_json, read_record
from lowregret.runs.metrics import read_metrics
from lowregret.runs.records import Metric, TrialRecord
from lowregret.spec import LoRA, Method

SAMPLES = "The same held-out problems before and after training, a sample each; open one to read it."


def compare_page(study: StudyRecords) -> str:
    """The whole page of a compare whose objective is a reward."""
    drawn = _compare_figures(study)
    specs = {one.key: one.chart.to_dict() for one in drawn}
    body = [head(study), *(figure(one.key, one.title, specs[one.key], one.caption) for one in drawn)]
    shown = ""
    for result in (study.verdict.lora, study.verdict.full):
        trials = study.trials_at_best(result.name) if result is not None else ()
        if result is not None and trials:
            rate = words.rate(trials[0].learning_rate)
            title = f"{study.label(result.name)} at {rate}, seed {trials[0].seed}"
            shown += transcripts(title, study.folder / "trials" / trials[0].id)
    if shown:
        body.append(section("samples", "Transcripts, before and after", f'<p class="note">{SAMPLES}</p>\n{shown}'))
    homes = [
        (f"{study.label(t.method)}, {words.rate(t.learning_rate)}", study.folder / "trials" / t.id)
        for t in study.trials
    ]
    failed = failures(homes)
    if failed:
        body.append(section("failures", "Failures of the reward function", failed))
    return document(words.headline(study), study.version, "".join([*body, tail(study)]), specs)


def _compare_figures(study: StudyRecords) -> list[Figure]:
    methods = {method.name: method for method in study.spec.methods}
    arms = [_arm(study, name, methods) for name in study.methods]
    base = study.verdict.base_reward
    sweeps = []
    for arm, name in zip(arms, study.methods, strict=True):
        points = tuple(
            (t.learning_rate, t.test_reward)
            for t in study.search_trials(name)
            if finished(t) and t.test_reward is not None
        )
        result = study.result(name)
        sweeps.append(Sweep(arm.name, arm.shade, points, None if result is None else result.best_learning_rate))
    lost = Counter(trial.status for trial in study.trials if not finished(trial))
    said = f" Without a point: {', '.join(f'{count} {status}' for status, count in lost.items())}." if lost else ""
    marks = "Lines join the trials of the search, seed 0; a ring is a best rate. A loss's U is upside down here: "
    marks += f"a wide plateau forgives a wrong rate.{said}"
    return [
        Figure("regret", "Regret", figures.regret_interval(study), words.regret_caption(study)),
        Figure("steps", "Reward against steps", rl_figures.reward_curves(arms, base), _steps_caption(study)),
        Figure(
            "rates",
            "Reward against learning rate",
            rl_figures.reward_rates(sweeps, base),
            words.rate_caption(study, marks),
        ),
        *rl_figures.sample_figures(arms),
        rl_figures.bits_figure(arms),
        Figure("cost", "Cost", figures.cost(study), words.cost_caption(study)),
    ]


def _steps_caption(study: StudyRecords) -> str:
    ends = [
        f"{words.mid_sentence(study.label(result.name))} {words.nats(result.test_reward)}"
        for result in study.verdict.methods
        if result.test_reward is not None
    ]
    return (
        "Each method at its best learning rate: bold the mean over its seeds, faint each seed; the dashed ink is full "
        f"fine-tuning. Points are evaluations on held-out problems, the first one before training. "
        f"It ends with {', '.join(ends) or 'nothing'}."
    )


def _arm(study: StudyRecords, name: str, methods: dict[str, Method]) -> Arm:
    method = methods.get(name)
    ranks = [other.rank for other in methods.values() if isinstance(other, LoRA)]
    place = rl_figures.lora_shade(method.rank, ranks) if isinstance(method, LoRA) else None
    seeds = tuple(_seed(trial, study.metrics.get(trial.id, ())) for trial in study.trials_at_best(name))
    return Arm(_short(study.label(name)), place, seeds)


def _short(said: str) -> str:
    """A label short enough for the end of a curve."""
    return "FullFT" if said == "Full fine-tuning" else said.removeprefix("LoRA (").removesuffix(")")


def _seed(trial: TrialRecord, metrics: tuple[Metric, ...]) -> Seed:
    return Seed(
        {m.step: m.test_reward for m in metrics if m.test_reward is not None},
        {m.step: m.rl for m in metrics if m.rl is not None},
        trial.trainable_parameters,
    )


def trial_page(folder: Path) -> str:
    """The whole page of one training, the folder of `lowregret train --objective rl`.

    Raises RecordsError when the training had another objective, which leaves nothing to draw against.
    """
    trial = read_record(TrialRecord, folder / "trial.json")
    metrics = tuple(read_metrics(folder / "metrics.jsonl"))
    spoken = read_json(folder / "spec.json")
    spoken = spoken if isinstance(spoken, dict) else {}
    if not any(metric.rl is not None or metric.test_reward is not None for metric in metrics):
        raise RecordsError(
            f"{folder}: is one training, not a comparison. Name a folder of `lowregret compare` or `lowregret study`; "
            "its metrics.jsonl has the loss of each step."
        )
    method, name = trial.spec.method, label(trial.spec.method)
    arms = [Arm(_short(name), 0.6 if isinstance(method, LoRA) else None, (_seed(trial, metrics),))]
    rewards = list(arms[0].seeds[0].reward.values())
    start = rewards[0] if rewards else None
    drawn = [
        Figure(
            "steps",
            "Reward against steps",
            rl_figures.reward_curves(arms, start),
            "Points are evaluations on held-out problems, the first one before training.",
        ),
        *rl_figures.sample_figures(arms),
        rl_figures.bits_figure(arms),
    ]
    specs = {one.key: one.chart.to_dict() for one in drawn}
    asked = spoken.get("spec") or {}
    body = [_trial_head(trial, name, rewards, asked)]
    body += [figure(one.key, one.title, specs[one.key], one.caption) for one in drawn]
    if shown := transcripts(f"{name} at {words.rate(trial.learning_rate)}, seed {trial.seed}", folder):
        body.append(section("samples", "Transcripts, before and after", f'<p class="note">{SAMPLES}</p>\n{shown}'))
    if failed := failures([(trial.id, folder)]):
        body.append(section("failures", "Failures of the reward function", failed))
    command = str(spoken.get("command", ""))
    resolved = json.dumps(asked, indent=2, ensure_ascii=False)
    body.append(
        section(
            "reproduce",
            "Reproduce",
            f'<pre class="command" tabindex="0"><code>{escape(command)}</code></pre>\n'
            "<details><summary>The resolved spec, every default filled in</summary>\n"
            f'<pre tabindex="0"><code>{escape(resolved)}</code></pre></details>',
        )
    )
    return document(_trial_headline(trial, rewards), str(spoken.get("lowregret", "")), "".join(body), specs)


def _trial_headline(trial: TrialRecord, rewards: list[float]) -> str:
    if len(rewards) < 2 or not math.isfinite(rewards[-1]):
        return f"Held-out reward not known yet after {trial.steps} steps"
    return f"Held-out reward {words.nats(rewards[0])} → {words.nats(rewards[-1])} in {trial.steps} steps"


def _trial_head(trial: TrialRecord, name: str, rewards: list[float], asked: Mapping[str, Any]) -> str:
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
    return (
        f'<header class="verdict">\n<p class="topline"><span class="badge">one training</span> '
        f"{escape(str(asked.get('model', '')))} on {escape(str(task))}</p>\n"
        f"<h1>{text(_trial_headline(trial, rewards))}</h1>\n{definitions(rows, '')}\n</header>\n"
    )
