"""What the post says of ranks (SCIENCE 3.1), each statement beside what measures it. Torch-free."""

from __future__ import annotations

import math
import statistics

from lowregret.analysis.condition import FULL, Condition
from lowregret.analysis.envelope import common_curve, departure, envelope, plain_loras, top_rank
from lowregret.analysis.fits import at, mean, r_squared, slope
from lowregret.questions.claim import Evidence, Measure, Stated, Statement
from lowregret.questions.question import sized_in_words
from lowregret.questions.rank.spec import RankQuestion

FOLLOWS = 0.05
"""Share of what FullFT learns by which two curves may lie apart and be the same: *Bits That Count* calls a rank to lose
where it learns less than 0.95 of it (SCIENCE 5)."""


def claims(question: RankQuestion) -> tuple[Stated[RankQuestion], ...]:
    names = [group.condition for group in question.groups()]
    of_sizes = (_of_size(question, name, size) for name, size in zip(dict.fromkeys(names), question.sizes, strict=True))
    return (*(stated for own in of_sizes for stated in own), *_of_curves(question))


def _of_size(question: RankQuestion, name: str, size: int) -> tuple[Stated[RankQuestion], ...]:
    """What is said of small to medium data, of one size: which sizes are so is what a reader sees."""
    top, data = max(question.ranks), sized_in_words(question.data, size)
    return (
        Stated(
            Statement(
                key=f"rank-coincide:{size}",
                number="3.1",
                sentence=f"With {data}, high-rank LoRA and full fine-tuning end at the same loss.",
                statistic=f"regret of rank {top} as a share of the FullFT loss, {data}",
                unit="share",
                high=question.tolerance,
            ),
            lambda evidence: _coincide(evidence.conditions[name]),
        ),
        Stated(
            Statement(
                key=f"rank-follows:{size}",
                number="3.1",
                sentence=f"With {data}, high-rank LoRA follows the curve of full fine-tuning: it is as sample-"
                "efficient at every step, not only at the end.",
                statistic=f"distance of the held-out curves of rank {top} and FullFT, each at its best rate, mean over "
                f"all evaluations, as a share of what FullFT learns, {data}",
                unit="share",
                high=FOLLOWS,
            ),
            lambda evidence: _follows(evidence.conditions[name]),
        ),
    )


def _of_curves(question: RankQuestion) -> tuple[Stated[RankQuestion], ...]:
    """What is said of how losses fall."""
    top = max(question.ranks)
    return (
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
                "steps, largest data; the loss half way by a line in log steps",
                unit="nats",
                low=0.0,
            ),
            _no_floor,
        ),
    )


def _coincide(condition: Condition) -> Measure:
    top, full = top_rank(condition), condition.best(FULL)
    if top is None or full is None or full.loss is None:
        return Measure(None)
    regret = condition.difference(top, FULL)
    return Measure(None if regret is None else regret.over(full.loss.value))


def _follows(condition: Condition) -> Measure:
    """Σ |gap| / (steps · learned), by seed; the gaps themselves, means over seeds, as details."""
    top, learned = top_rank(condition), condition.learned_by_full()
    if top is None or learned is None:
        return Measure(None)
    curves = [{trial.record.seed: trial.test for trial in condition.at_best(name)} for name in (top, FULL)]
    gaps: dict[int, list[float]] = {}
    apart = []
    for seed in sorted(curves[0].keys() & curves[1].keys()):
        own, other = curves[0][seed], curves[1][seed]
        steps = sorted(step for step in own.keys() & other.keys() if step > 0)
        for step in steps:
            gaps.setdefault(step, []).append((own[step] - other[step]) / learned)
        if steps:
            apart.append(statistics.fmean(abs(own[step] - other[step]) for step in steps) / learned)
    details = {f"after {step} steps": statistics.fmean(found) for step, found in sorted(gaps.items())}
    return Measure(mean(apart), details=details)


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
        half = at(trial.test, condition.steps / 2)
        if half is not None:
            falls[f"seed {trial.record.seed}"] = half - trial.loss()
    return Measure(mean(list(falls.values())), details=dict(falls))
