"""From shapes, data and a request to a plan: who counts what, in order. Torch-free."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lowregret.data.facts import DEFAULT_LENGTH, DataFacts
from lowregret.errors import SpecError
from lowregret.plan.advice.advise import Advised, advise
from lowregret.plan.advice.capacity import ELICIT_BITS, STORED_BITS, TEACH_BITS, FinishedRun, rank_for
from lowregret.plan.advice.choice import LEAST_BATCH
from lowregret.plan.advice.regret import room
from lowregret.plan.estimate import CostEstimator, RunShape, full_asked, memory_budget
from lowregret.plan.plan import Plan
from lowregret.plan.resources.evaluation import choose_evaluation
from lowregret.plan.resources.hardware import Hardware
from lowregret.plan.resources.parts import divisible, require_blocks
from lowregret.plan.shapes.weights import Shapes
from lowregret.plan.trust import trust
from lowregret.spec import TrainingSpec
from lowregret.spec.mesh import require
from lowregret.spec.plan import PlanSpec

EVALS = int(TrainingSpec.model_fields["evals"].default)
"""Held-out evaluations of a trial, where nobody says otherwise."""


def build_plan(
    shapes: Shapes,
    request: PlanSpec,
    *,
    facts: DataFacts | None = None,
    bits_per_token: float | None = None,
    pilot: FinishedRun | None = None,
    hardware: Hardware | None = None,
) -> Plan:
    """Plan one model.

    Args:
        shapes: the model.
        request: what is fixed; the rest is chosen. The names in it (hardware, pilot, data's columns) were looked up by
            whoever calls, and what they mean is given beside it.
        facts: the data, with an example or more; without them a length is assumed and the confidence is low.
        bits_per_token: the base's own loss on a sample of the data, measured; else a prior.
        pilot: a finished run.
        hardware: what it is to run on: memory is then checked against it. When not given, the least device with a
            price that holds the method is assumed for time and money.
    """
    if request.mesh is not None:
        require(request.mesh, divisible(shapes))
    require_blocks(shapes, full_asked(request), request.devices)
    length, mean, share = _rows(shapes, request, facts)
    budget = memory_budget(shapes, request, length, share, hardware)
    several = replace(budget, batch=request.batch_size or LEAST_BATCH)  # whose passes add up: that takes memory
    found = advise(shapes, request, facts, bits_per_token=bits_per_token, pilot=pilot, fits=several.fits)
    choice = found.choice
    rows = choice.batch_size * (request.group_size if request.objective == "rl" else 1)
    work = RunShape(
        rows,
        choice.steps,
        length,
        mean,
        share,
        _eval_tokens(0 if facts is None else facts.held_out, mean, choice.steps * rows * mean, request),
        budget.shared,
    )
    budget = replace(budget, batch=rows)
    if hardware is None:
        budget = replace(budget, hardware=budget.cheapest(found.method))
    estimator = CostEstimator(shapes, request, work, budget)
    lora = estimator.method_plan(found.lora, sum(found.lora_parameters.values()), found.lora_rate)
    full = estimator.method_plan(full_asked(request), shapes.total, found.full_rate)
    return Plan(
        shapes=shapes,
        request=request,
        facts=facts,
        information=found.information,
        advice=found.advice,
        hardware=budget.hardware,
        hardware_assumed=hardware is None,
        lora=lora,
        full=full,
        batch_size=choice.batch_size,
        steps=choice.steps,
        length=length,
        by_target=found.lora_parameters,
        expected=found.expected,
        capacity=_capacity(shapes, found),
        trust=trust(shapes, found, budget.hardware, request.devices),
        price_given=request.price is not None,
        study=estimator.study_cost(lora.here, full.here),
    )


def _eval_tokens(held_out: int, mean_length: float, train_tokens: float, request: PlanSpec) -> float:
    """Tokens of all evaluations of a trial, as a run that is not told otherwise chooses them. With rewards every
    held-out example judges; else as many as keep evaluations within their share."""
    if request.objective == "rl" or not held_out:
        return EVALS * held_out * mean_length
    found = choose_evaluation([mean_length] * held_out, train_tokens, EVALS)
    return found.evaluations * found.examples * mean_length


def _rows(shapes: Shapes, request: PlanSpec, facts: DataFacts | None) -> tuple[int, float, float]:
    """Tokens of the longest row and of a mean one, and the supervised share; without data every row is full."""
    limit = request.max_length or min(DEFAULT_LENGTH, shapes.context or DEFAULT_LENGTH)
    if request.objective == "rl":
        length = _prompt(shapes, request, facts, limit) + request.max_tokens
        return length, length, request.max_tokens / length
    if facts is None:
        return limit, limit, 1.0
    return facts.longest, facts.mean_length, facts.supervised_share


def _prompt(shapes: Shapes, request: PlanSpec, facts: DataFacts | None, limit: int) -> int:
    """Tokens of a prompt in RL: the mean one of the data; without data as many as may be, where completions leave room.

    Raises:
        SpecError: the base has no room for a prompt and a completion, as the trainer would say.
    """
    room = limit if shapes.context is None else shapes.context - request.max_tokens
    prompt = min(limit, room if facts is None else round(facts.mean_length * (1 - facts.supervised_share)))
    if room < max(prompt, 1):
        has = "a prompt takes some" if facts is None else f"a prompt has about {prompt:,} tokens"
        raise SpecError(
            f"--max-tokens {request.max_tokens}: prompt and completion share the base's {shapes.context:,} positions, "
            f"and {has}. Use a lower --max-tokens."
        )
    return prompt


def _capacity(shapes: Shapes, found: Advised) -> dict[str, Any]:
    """The `capacity` of --json."""
    information, lora = found.information, found.lora
    parameters = sum(found.lora_parameters.values())

    def needed(figure: float) -> int | None:
        if information is None:
            return None
        reached = information.to_hold if found.expected is None else found.expected.bits_per_parameter * parameters
        return rank_for(shapes, reached, figure, lora.targets, lora.convention)

    return {
        "data_bits": information and information.bits,
        "bits_per_token": information and information.bits_per_token,
        "source": information and information.source,
        "edl_bits": information and information.edl_bits,
        "regime": "unknown" if information is None else information.regime,
        "bits_per_episode": information and information.bits_per_episode,
        "informative_groups": information and information.informative_groups,
        "lora_bits": STORED_BITS * parameters,
        "lora_bits_teach": [figure * parameters for figure in TEACH_BITS],
        "lora_bits_elicit": [figure * parameters for figure in ELICIT_BITS],
        "rank_stored": needed(STORED_BITS),
        "rank_needed": None if information is None else needed(room(information)),
        "fact_bits": information and information.fact_bits,
        "expected_regret": None if found.expected is None else found.expected.as_dict(),
    }
