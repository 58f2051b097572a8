"""What the plan says of a run that is about to start, from its own data: the advice that `lowregret plan` gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lowregret.data.builtin.registry import known_fact_bits
from lowregret.data.facts import DataFacts
from lowregret.data.prepare import PreparedData
from lowregret.data.table import supervised_counts, token_counts
from lowregret.errors import LowregretError
from lowregret.plan.advice.advise import advise
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import RL, FullFT, LoRA, TrainingSpec, build
from lowregret.spec.plan import PlanSpec
from lowregret.train.rl.problems import Problems


def advice_lines(
    spec: TrainingSpec,
    shapes: Shapes,
    data: PreparedData | Problems,
    steps: int,
    methods: Sequence[FullFT | LoRA],
    learning_rate: float | None = None,
) -> list[str]:
    """The advice for this base, data, batch and length, and what is to be said against the methods asked for.

    Args:
        spec: the run.
        shapes: of its base.
        data: prepared, so that every count is exact.
        steps: optimizer steps of a trial.
        methods: those that are to be trained.
        learning_rate: the user's; None when it is chosen.
    """
    try:
        found = [advise(shapes, _request(spec, steps, method, learning_rate), _facts(spec, data)) for method in methods]
    except LowregretError as error:  # a base or a target that the plan cannot count must not keep anybody from training
        return [f"plan: no advice for this base: {error}"]
    warnings = dict.fromkeys(warning for each in found for warning in each.advice.warnings)
    return found[0].advice.lines(tuple(warnings))


def _request(spec: TrainingSpec, steps: int, method: FullFT | LoRA, learning_rate: float | None) -> PlanSpec:
    values: dict[str, Any] = {
        "method": method,
        "batch_size": spec.batch_size,
        "steps": steps,
        "learning_rate": learning_rate,
        "optimizer": spec.optimizer,
    }
    if isinstance(spec.objective, RL):
        values |= {"objective": "rl", "group_size": spec.objective.group_size}
    else:
        values |= {"schedule": spec.optimizer.schedule}
    return build(PlanSpec, values)


def _facts(spec: TrainingSpec, data: PreparedData | Problems) -> DataFacts:
    if isinstance(data, Problems):
        lengths, supervised = [len(prompt.token_ids) for prompt in data.train], 0
    else:
        lengths, supervised = token_counts(data.train).tolist(), int(supervised_counts(data.train).sum())
    return DataFacts(
        source=spec.data.train,
        layout="",
        examples=len(data.train),
        tokens=sum(lengths),
        supervised_tokens=supervised,
        longest=max(lengths),
        max_length=spec.data.max_length,
        overlong=0,  # the data's own report tells what was cut
        held_out=len(data.test),
        held_out_from="",
        counted="exact",
        how="the model's tokenizer",
        fact_bits=known_fact_bits(spec.data.train) if spec.data.max_train is None else None,
    )
