"""The page of a compare whose objective is a reward."""

from __future__ import annotations

from collections import Counter

from lowregret.report.charts import compare, rewards, words
from lowregret.report.charts.drawing import Figure
from lowregret.report.charts.rewards import Arm, Sweep
from lowregret.report.pages import captions
from lowregret.report.pages.document import document, figure, joined
from lowregret.report.pages.replies import replies
from lowregret.report.pages.training import seed_of, short
from lowregret.report.pages.transcripts import failures, samples
from lowregret.report.pages.verdict import head, tail
from lowregret.report.reading import StudyRecords, finished
from lowregret.runs.study import trial_folder
from lowregret.spec import LoRA, Method


def page(study: StudyRecords) -> str:
    """The whole page."""
    first, *others = (figure(one.key, one.title, one.chart.to_dict(), one.caption) for one in compare_figures(study))
    best = []
    for result in (study.verdict.lora, study.verdict.full):
        trials = study.trials_at_best(result.name) if result is not None else ()
        if result is not None and trials:
            rate = words.rate(trials[0].learning_rate)
            title = f"{study.label(result.name)} at {rate}, seed {trials[0].seed}"
            best.append((title, trial_folder(study.folder, trials[0].id)))
    homes = [
        (f"{study.label(t.method)}, {words.rate(t.learning_rate)}", trial_folder(study.folder, t.id))
        for t in study.trials
    ]
    said = replies(study.folder, study.label)
    body = [head(study), first, said, *others, samples(best), failures(homes), tail(study)]
    return document(captions.plain(study), study.version, joined(body))


def compare_figures(study: StudyRecords) -> list[Figure]:
    """All of the page, most important first."""
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
        Figure("regret", "Regret", compare.regret_chart(study), captions.regret_caption(study)),
        Figure("steps", "Reward against steps", rewards.reward_curves(arms, base), _steps_caption(study)),
        Figure(
            "rates",
            "Reward against learning rate",
            rewards.reward_rates(sweeps, base),
            captions.rate_caption(study, marks),
        ),
        *rewards.sample_figures(arms),
        rewards.bits_figure(arms),
        Figure("cost", "Cost", compare.cost(study), captions.cost_caption(study)),
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
    place = rewards.lora_shade(method.rank, ranks) if isinstance(method, LoRA) else None
    seeds = tuple(seed_of(trial, study.metrics.get(trial.id, ())) for trial in study.trials_at_best(name))
    return Arm(short(study.label(name)), place, seeds)
