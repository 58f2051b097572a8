"""The statistics of the questions about adapters themselves: where, how much, at what cost, and in which form."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

from lowregret.analysis.evidence import FULL, Condition, Evidence, Run
from lowregret.analysis.fits import Estimate, exponential, mean, slope
from lowregret.analysis.measures import Measure, Measures, log_ratios, unless_loose
from lowregret.plan.capacity import Evaluation, excess
from lowregret.spec import LoRA
from lowregret.spec.questions import InvarianceQuestion, LayersQuestion, VariantsQuestion

ROUNDING = 1e-6
"""A distance below which two curves are the same."""
SATURATED = 0.9
"""An adapter that stores this share of the facts says nothing about what it could hold."""


def layers(evidence: Evidence) -> Measures:
    """SCIENCE.md 3.6."""
    condition, question = evidence.conditions["main"], evidence.question
    assert isinstance(question, LayersQuestion)
    learned = learned_by_full(condition)
    if learned is None:
        return {}
    attention, both = {}, {}
    details: dict[str, float | None] = {}
    for rank in question.ranks:
        mlp = LoRA(rank=rank, targets=("mlp",)).name
        others = LoRA(rank=2 * rank, targets=("attention",)).name, LoRA(rank=rank).name
        worse, gain = condition.difference(others[0], mlp), condition.difference(mlp, others[1])
        if worse is not None:
            attention[rank] = worse.over(learned)
            details[f"attention {2 * rank} over mlp {rank}"] = attention[rank].value
        if gain is not None:
            both[rank] = gain.over(learned)
            details[f"mlp {rank} over all {rank}"] = both[rank].value
    return {
        "layers-attention": Measure(min(attention.values(), key=_value, default=None), details=details),
        "layers-all": Measure(max(both.values(), key=_value, default=None), details=details),
    }


def learned_by_full(condition: Condition) -> float | None:
    """Nats by which FullFT at its best rate lowers the held-out loss; None when it does not."""
    best = condition.best(FULL)
    if best is None or best.loss is None or condition.base_nll <= best.loss.value:
        return None
    return condition.base_nll - best.loss.value


def stored_bits(run: Run, fact_bits: float) -> float:
    """Bits of the facts that a trained policy knows: all of them, minus what its loss on asking for each one leaves.

    The held-out set asks for every fact once, in a wording that was not trained on; a policy that has stored nothing
    and says so evenly loses exactly the facts' bits.
    """
    return fact_bits - math.fsum(run.examples().nll_sums) / math.log(2)


def capacity(evidence: Evidence) -> Measures:
    """SCIENCE.md 3.8 and 5."""
    condition = evidence.conditions["facts"]
    total = condition.fact_bits
    if total is None:
        return {}
    per_parameter: dict[int, list[float]] = {}
    details: dict[str, float | None] = {"bits of the facts": total}
    growth: list[tuple[float, float]] = []
    for method in condition.methods:
        bits = [stored_bits(run, total) for run in condition.at_best(method.name)]
        if not bits or not isinstance(method, LoRA):
            continue
        parameters = condition.at_best(method.name)[0].record.trainable_parameters
        per_parameter[method.rank] = [found / parameters for found in bits]
        details[f"{method.name}, bits"] = statistics.fmean(bits)
        growth += [(math.log2(method.rank), math.log2(b)) for b in bits if 0 < b < SATURATED * total]
    most = max(per_parameter, key=lambda rank: statistics.fmean(per_parameter[rank]), default=None)
    return {
        "capacity-bits": Measure(
            mean(per_parameter[most]) if most is not None else None,
            f"Most at rank {most}." if most is not None else "",
            details,
        ),
        "capacity-rank": Measure(
            slope([x for x, _ in growth], [y for _, y in growth]),
            "" if growth else "every rank stores nearly all of the facts, or none",
            details,
        ),
        "capacity-teach": _edl_slope(evidence.conditions["teach"]),
        "capacity-elicit": _edl_slope(evidence.conditions["elicit"]),
    }


def _edl_slope(condition: Condition) -> Measure:
    """d(EDL/n)/d(ln n) by seed, at the best rate; beside it MDL and EDL of the epoch, bits per token (SCIENCE.md 5)."""
    slopes, details = {}, {}
    for run in condition.at_best(condition.methods[0].name):
        train = [run.train[step] for step in sorted(run.train)]
        evaluations = [Evaluation(step / len(train), loss) for step, loss in sorted(run.test.items())]
        found, seed = excess(train, evaluations, run.loss()), f"seed {run.record.seed}"
        details[f"{seed}, MDL per token"] = found.first_epoch_bits_per_token
        details[f"{seed}, EDL per token"] = found.bits_per_token
        if found.slope is not None:
            slopes[seed] = details[seed] = found.slope
    return Measure(mean(list(slopes.values())), details=details)


def compute(evidence: Evidence) -> Measures:
    """SCIENCE.md 3.9, on the widest base that was timed."""
    if not evidence.timings:
        return {}
    widest = max(evidence.timings, key=lambda found: found["width"])
    ratios = time_ratios(widest)
    details: dict[str, float | None] = {}
    for timing in evidence.timings:
        for rank, found in time_ratios(timing).items():
            details[f"hidden {timing['width']}, rank {rank}"] = found.value
    lowest = min(ratios)
    theory = {int(rank): float(value) for rank, value in widest["theory"].items()}
    off = {
        rank: Estimate(
            value=abs(found.value / theory[rank] - 1),
            low=_distance(found, theory[rank])[0],
            high=_distance(found, theory[rank])[1],
            n=found.n,
        )
        for rank, found in ratios.items()
        if rank <= widest["width"] / 6
    }
    memory = {int(rank): value for rank, value in widest["lora_bytes"].items()}
    share = memory[lowest] / widest["full_bytes"]
    return {
        "compute-share": Measure(ratios[lowest], details=details),
        "compute-theory": Measure(max(off.values(), key=_value, default=None), details=details),
        # counted, not sampled: there is no noise in it
        "compute-memory": Measure(Estimate(value=share, low=share, high=share, n=len(widest["full_seconds"]))),
    }


def time_ratios(timing: Mapping[str, object]) -> dict[int, Estimate]:
    """Rank → time of a LoRA step over a FullFT step, from steps timed in turns."""
    full = timing["full_seconds"]
    assert isinstance(full, list)
    found: dict[int, Estimate] = {}
    lora = timing["lora_seconds"]
    assert isinstance(lora, dict)
    for rank, seconds in lora.items():
        ratios = mean([math.log2(own / other) for own, other in zip(seconds, full, strict=True)])
        estimate = exponential(ratios)
        if estimate is not None:
            found[int(rank)] = estimate
    return dict(sorted(found.items()))


def _distance(found: Estimate, theory: float) -> tuple[float | None, float | None]:
    """The least and the largest distance from theory that an interval allows, as a share of theory."""
    if found.low is None or found.high is None:
        return None, None
    low, high = found.low / theory - 1, found.high / theory - 1
    return (0.0 if low <= 0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high))


def invariance(evidence: Evidence) -> Measures:
    """SCIENCE.md 3.10."""
    condition, question = evidence.conditions["main"], evidence.question
    assert isinstance(question, InvarianceQuestion)
    plain, *others = question.methods()
    same = {lora.name for lora in others[: len(question.transforms)]}
    far: dict[str, dict[int, float]] = {lora.name: distances(condition, lora.name, plain.name) for lora in others}
    seeds = sorted(set.intersection(*(set(found) for found in far.values()))) if far else []
    largest = {seed: max(far[name][seed] for name in same) for seed in seeds}
    least = {seed: min(found[seed] for name, found in far.items() if name not in same) for seed in seeds}
    details = {name: statistics.fmean(found.values()) if found else None for name, found in far.items()}
    ratios = [math.log2(least[seed] / max(largest[seed], ROUNDING)) for seed in seeds]
    return {
        "invariance-same": Measure(mean(list(largest.values())), details=details),
        "invariance-moved": Measure(exponential(mean(ratios)), details=details),
    }


def distances(condition: Condition, method: str, reference: str) -> dict[int, float]:
    """Seed → largest distance of two training curves over what the reference learned, in its own units."""
    found = {}
    for run in condition.of(reference):
        other = next(iter(condition.of(method, run.record.seed)), None)
        steps = sorted(run.train)
        if other is None or not steps:
            continue
        learned = run.train[steps[0]] - min(run.train.values())
        gaps = [abs(other.train[s] - run.train[s]) if s in other.train else math.inf for s in steps]
        if learned > 0:
            found[run.record.seed] = max(gaps) / learned
    return found


def variants(evidence: Evidence) -> Measures:
    """SCIENCE.md 5."""
    condition, question = evidence.conditions["main"], evidence.question
    assert isinstance(question, VariantsQuestion)
    plain, *others = (method.name for method in question.methods)
    best = condition.best(plain)
    measures: Measures = {}
    if best is not None and best.loss is not None:
        apart = {name: found.over(best.loss.value) for name in others if (found := condition.difference(name, plain))}
        worst = max(apart.values(), key=lambda found: abs(found.value), default=None)
        details = {name: found.value for name, found in apart.items()}
        measures["variants-close"] = Measure(None if worst is None else _magnitude(worst), details=details)
    pissa = next((m.name for m in question.methods if isinstance(m, LoRA) and m.init == "pissa"), None)
    if pissa is not None:
        own, reference = condition.best(pissa), condition.best(plain)
        ratios, note = log_ratios(condition, [pissa], None, plain)
        estimate = unless_loose(exponential(mean(list(ratios.values()))), note)
        if estimate is not None and len(ratios) == 1 and own is not None and reference is not None:
            note = f"{note} The rates are known to a factor of 2 each.".strip()
        measures["variants-pissa"] = Measure(estimate, note)
    forgot = {name: forgetting(condition, name) for name in (FULL, plain, *others)}
    seeds = sorted(forgot[FULL].keys() & forgot[plain].keys())
    rises = {name: statistics.fmean(found.values()) if found else None for name, found in forgot.items()}
    measures["variants-forget"] = Measure(
        mean([forgot[FULL][seed] - forgot[plain][seed] for seed in seeds]), details=rises
    )
    return measures


def forgetting(condition: Condition, method: str) -> dict[int, float]:
    """Seed → rise of the loss on held-out base text at a method's best rate, nats per supervised token."""
    if condition.base_forgetting is None:
        return {}
    runs = condition.at_best(method)
    return {r.record.seed: r.forgetting_nll - condition.base_forgetting for r in runs if r.forgetting_nll is not None}


def _magnitude(found: Estimate) -> Estimate:
    """Of a difference: its distance from zero."""
    if found.low is None or found.high is None:
        return Estimate(value=abs(found.value), n=found.n)
    low, high = sorted((abs(found.low), abs(found.high)))
    return Estimate(value=abs(found.value), low=0.0 if found.low <= 0 <= found.high else low, high=high, n=found.n)


def scaling(evidence: Evidence) -> Measures:
    """SCIENCE.md 3.11 and 3.1, against the hidden size."""
    ratios: dict[str, float | None] = {}
    regrets: dict[str, float | None] = {}
    points: dict[int, list[tuple[float, float]]] = {}
    costs: list[tuple[float, float]] = []
    loose = ""
    for name, condition in evidence.conditions.items():
        loras = sorted((m for m in condition.methods if isinstance(m, LoRA)), key=lambda lora: lora.rank)
        full = condition.best(FULL)
        if full is None or full.loss is None:
            continue
        width = math.log2(condition.hidden_size)
        by_seed, note = log_ratios(condition, [lora.name for lora in loras])
        loose = loose or note
        for seed, value in by_seed.items():
            points.setdefault(seed, []).append((width, value))
        ratios[name] = 2.0 ** statistics.fmean(by_seed.values()) if by_seed else None
        regret = condition.difference(loras[-1].name, FULL)
        if regret is not None:
            regrets[name] = regret.value / full.loss.value
            costs.append((width, regret.value / full.loss.value))
    lines = [slope([x for x, _ in found], [y for _, y in found]) for found in points.values()]
    return {
        "scaling-ratio": Measure(unless_loose(mean([line.value for line in lines if line]), loose), loose, ratios),
        "scaling-regret": Measure(
            unless_loose(slope([x for x, _ in costs], [y for _, y in costs]), loose), loose, regrets
        ),
    }


def _value(found: Estimate) -> float:
    return found.value
