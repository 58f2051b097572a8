"""What the post says of ranks (SCIENCE 3.1), each statement beside what measures it. Torch-free."""

from __future__ import annotations

import math

from lowregret.analysis.condition import FULL
from lowregret.analysis.envelope import common_curve, departure, envelope, plain_loras, top_rank
from lowregret.analysis.fits import Estimate, mean, r_squared, slope
from lowregret.questions.claim import Evidence, Measure, Stated, Statement
from lowregret.questions.rank.spec import RankQuestion


def claims(question: RankQuestion) -> tuple[Stated[RankQuestion], ...]:
    top = max(question.ranks)
    return (
        Stated(
            Statement(
                key="rank-coincide",
                number="3.1",
                sentence="On small to medium data, high-rank LoRA and full fine-tuning end at the same loss.",
                statistic=f"regret of rank {top} as a share of the FullFT loss, at the data size where it is largest",
                unit="share",
                high=question.tolerance,
            ),
            _coincide,
        ),
        Stated(
            Statement(
                key="rank-log-linear",
                number="3.1",
                sentence="The loss falls about linearly in the logarithm of the steps.",
                statistic=f"R² of held-out loss against log steps: FullFT and rank {top}, all sizes and seeds",
                unit="number",
                low=0.95,
            ),
            _log_linear,
        ),
        Stated(
            Statement(
                key="rank-departure",
                number="3.1",
                sentence="Low ranks leave the common curve at a step that grows with the rank.",
                statistic="slope of log2(step of departure) against log2(rank), ranks that leave, all sizes",
                unit="number",
                low=0.0,
            ),
            _departure,
        ),
        Stated(
            Statement(
                key="rank-no-floor",
                number="3.1",
                sentence="Beyond its capacity a low rank meets no floor: its loss goes on falling, only more slowly.",
                statistic=f"fall of the held-out loss of rank {min(question.ranks)} over the last doubling of the "
                "steps, largest data",
                unit="nats",
                low=0.0,
            ),
            _no_floor,
        ),
    )


def _coincide(evidence: Evidence[RankQuestion]) -> Measure:
    regrets: dict[str, Estimate] = {}
    for name, condition in evidence.conditions.items():
        top, full = top_rank(condition), condition.best(FULL)
        if top is None or full is None or full.loss is None:
            continue
        regret = condition.difference(top, FULL)
        if regret is not None:
            regrets[name] = regret.over(full.loss.value)
    worst = max(regrets.values(), key=lambda found: found.value, default=None)
    return Measure(worst, details={name: found.value for name, found in regrets.items()})


def _log_linear(evidence: Evidence[RankQuestion]) -> Measure:
    linear: dict[int, list[float]] = {}
    for condition in evidence.conditions.values():
        top, full = top_rank(condition), condition.best(FULL)
        if top is None or full is None or full.loss is None:
            continue
        for method in (FULL, top):
            for trial in condition.at_best(method):
                steps = sorted(trial.test)
                found = r_squared([math.log(step) for step in steps], [trial.test[step] for step in steps])
                if found is not None:
                    linear.setdefault(trial.record.seed, []).append(found)
    # The curves of one seed are of one order of the data: their mean is one value.
    straight = {seed: sum(found) / len(found) for seed, found in sorted(linear.items())}
    return Measure(mean(list(straight.values())), details={f"seed {s}": v for s, v in straight.items()})


def _departure(evidence: Evidence[RankQuestion]) -> Measure:
    places: list[tuple[float, float]] = []
    departures: dict[str, float | None] = {}
    for name, condition in evidence.conditions.items():
        top, full = top_rank(condition), condition.best(FULL)
        if top is None or full is None or full.loss is None:
            continue
        common = common_curve(condition)
        for lora in plain_loras(condition):
            if lora.name == top:
                continue
            left = departure(envelope(condition, lora.name), common, condition.base_nll)
            departures[f"{name} {lora.name}"] = left
            if left is not None:
                places.append((math.log2(lora.rank), math.log2(left)))
    return Measure(
        slope([x for x, _ in places], [y for _, y in places]),
        note="" if places else "no rank leaves the common curve within these steps",
        details=departures,
    )


def _no_floor(evidence: Evidence[RankQuestion]) -> Measure:
    condition = list(evidence.conditions.values())[-1]
    loras = plain_loras(condition)
    if not loras:
        return Measure(None)
    falls = {}
    for trial in condition.at_best(loras[0].name):
        half = [step for step in trial.test if step <= condition.steps / 2]
        if half:
            falls[f"seed {trial.record.seed}"] = trial.test[max(half)] - trial.loss()
    return Measure(mean(list(falls.values())), details=dict(falls))
