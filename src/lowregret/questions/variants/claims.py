"""What is said of the variants of LoRA (SCIENCE 5), each statement beside what measures it. Torch-free."""

from __future__ import annotations

import statistics

from lowregret.analysis.condition import FULL, Condition
from lowregret.analysis.fits import mean
from lowregret.analysis.place import mean_factor
from lowregret.analysis.rates import log_ratios, unless_loose
from lowregret.questions.claim import Evidence, Measure, Stated, Statement
from lowregret.questions.variants.spec import VariantsQuestion
from lowregret.spec import LoRA


def claims(question: VariantsQuestion) -> tuple[Stated[VariantsQuestion], ...]:
    return (
        *(_of_variant(method.name) for method in question.methods[1:]),
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


def _of_variant(name: str) -> Stated[VariantsQuestion]:
    return Stated(
        Statement(
            key=f"variants-close:{name}",
            number="5",
            sentence=f"Tuned alike, {name} ends within 2 % of plain LoRA.",
            statistic="its held-out loss minus plain LoRA's, as a share of the latter",
            unit="share",
            low=-0.02,
            high=0.02,
        ),
        lambda evidence: _close(evidence, name),
    )


def _close(evidence: Evidence[VariantsQuestion], name: str) -> Measure:
    condition, plain = evidence.conditions["main"], evidence.question.methods[0].name
    best, apart = condition.best(plain), condition.difference(name, plain)
    return Measure(None if best is None or best.loss is None or apart is None else apart.over(best.loss.value))


def _pissa(evidence: Evidence[VariantsQuestion]) -> Measure:
    condition, methods = evidence.conditions["main"], evidence.question.methods
    plain = methods[0].name
    pissa = next((m.name for m in methods if isinstance(m, LoRA) and m.init == "pissa"), None)
    if pissa is None:
        return Measure(None)
    ratios, note = log_ratios(condition, [pissa], None, plain)
    return Measure(unless_loose(mean_factor(list(ratios.values())), note), note)


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
