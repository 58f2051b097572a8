"""What is said of the variants of LoRA (SCIENCE 5), each statement beside what measures it. Torch-free."""

from __future__ import annotations

import statistics

from lowregret.analysis.condition import FULL, Condition
from lowregret.analysis.fits import Estimate, exponential, mean
from lowregret.analysis.rates import log_ratios, unless_loose
from lowregret.questions.claim import Evidence, Measure, Stated, Statement
from lowregret.questions.variants.spec import VariantsQuestion
from lowregret.spec import LoRA


def claims(question: VariantsQuestion) -> tuple[Stated[VariantsQuestion], ...]:
    return (
        Stated(
            Statement(
                key="variants-close",
                number="5",
                sentence="Tuned alike, the variants of LoRA end within 2 % of plain LoRA.",
                statistic="largest distance of a variant's held-out loss from plain LoRA's, as a share of the latter",
                unit="share",
                high=0.02,
            ),
            _close,
        ),
        Stated(
            Statement(
                key="variants-pissa",
                number="5",
                sentence="PiSSA needs a smaller learning rate than plain LoRA.",
                statistic="fitted best rate of PiSSA over that of plain LoRA",
                unit="ratio",
                high=1.0,
            ),
            _pissa,
        ),
        Stated(
            Statement(
                key="variants-forget",
                number="5",
                sentence="LoRA forgets less than full fine-tuning.",
                statistic="loss on held-out text of the base after FullFT minus that after plain LoRA",
                unit="nats",
                low=0.0,
            ),
            _forget,
        ),
    )


def _close(evidence: Evidence[VariantsQuestion]) -> Measure:
    condition = evidence.conditions["main"]
    plain, *others = (method.name for method in evidence.question.methods)
    best = condition.best(plain)
    if best is None or best.loss is None:
        return Measure(None)
    apart = {name: found.over(best.loss.value) for name in others if (found := condition.difference(name, plain))}
    worst = max(apart.values(), key=lambda found: abs(found.value), default=None)
    details = {name: found.value for name, found in apart.items()}
    return Measure(None if worst is None else _magnitude(worst), details=details)


def _pissa(evidence: Evidence[VariantsQuestion]) -> Measure:
    condition, methods = evidence.conditions["main"], evidence.question.methods
    plain = methods[0].name
    pissa = next((m.name for m in methods if isinstance(m, LoRA) and m.init == "pissa"), None)
    if pissa is None:
        return Measure(None)
    own, reference = condition.best(pissa), condition.best(plain)
    ratios, note = log_ratios(condition, [pissa], None, plain)
    estimate = unless_loose(exponential(mean(list(ratios.values()))), note)
    if estimate is not None and len(ratios) == 1 and own is not None and reference is not None:
        note = f"{note} The rates are known to a factor of 2 each.".strip()
    return Measure(estimate, note)


def _forget(evidence: Evidence[VariantsQuestion]) -> Measure:
    condition = evidence.conditions["main"]
    plain, *others = (method.name for method in evidence.question.methods)
    forgot = {name: forgetting(condition, name) for name in (FULL, plain, *others)}
    seeds = sorted(forgot[FULL].keys() & forgot[plain].keys())
    rises = {name: statistics.fmean(found.values()) if found else None for name, found in forgot.items()}
    return Measure(mean([forgot[FULL][seed] - forgot[plain][seed] for seed in seeds]), details=rises)


def forgetting(condition: Condition, method: str) -> dict[int, float]:
    """Seed → rise of the loss on held-out base text at a method's best rate, nats per supervised token."""
    if condition.base_forgetting is None:
        return {}
    trials = condition.at_best(method)
    return {t.record.seed: t.forgetting_nll - condition.base_forgetting for t in trials if t.forgetting_nll is not None}


def _magnitude(found: Estimate) -> Estimate:
    """Of a difference: its distance from zero."""
    if found.low is None or found.high is None:
        return Estimate(value=abs(found.value), n=found.n)
    low, high = sorted((abs(found.low), abs(found.high)))
    return Estimate(value=abs(found.value), low=0.0 if found.low <= 0 <= found.high else low, high=high, n=found.n)
