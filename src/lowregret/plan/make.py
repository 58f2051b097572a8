"""From shapes, data and a request to a plan: who counts what, in order. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lowregret.analysis.edl import ExcessDescriptionLength
from lowregret.data.facts import DEFAULT_LENGTH, DataFacts
from lowregret.errors import SpecError
from lowregret.plan.advice.advise import Advised, advise
from lowregret.plan.advice.capacity import ELICIT_BITS, STORED_BITS, TEACH_BITS, rank_for
from lowregret.plan.advice.regret import room
from lowregret.plan.placement import PACK, Placement
from lowregret.plan.plan import MethodPlan, Plan
from lowregret.plan.rates.recommend import RatePrior
from lowregret.plan.resources.budget import MemoryBudget
from lowregret.plan.resources.cost import RunCost, StudyCost, packing_gain, run_cost, study_cost
from lowregret.plan.resources.evaluation import choose_evaluation
from lowregret.plan.resources.flops import NO_SHARED_PREFIX, SharedPrefix, shared_adds
from lowregret.plan.resources.hardware import Hardware
from lowregret.plan.resources.lean import lean_fit
from lowregret.plan.resources.parts import divisible, require_blocks
from lowregret.plan.shapes.adapters import adapter_bytes
from lowregret.plan.shapes.weights import Shapes
from lowregret.plan.trust import trust
from lowregret.spec import FullFT, LoRA, TrainingSpec
from lowregret.spec.lean import kind_of, steps_in_backward
from lowregret.spec.mesh import require
from lowregret.spec.plan import PlanSpec

EVALS = int(TrainingSpec.model_fields["evals"].default)
"""Held-out evaluations of a trial, where nobody says otherwise."""


@dataclass(frozen=True)
class RunShape:
    """The rows of a step and of a run, whatever the method."""

    batch_size: int
    """Rows a step: examples, or in RL samples."""
    steps: int
    length: int
    """Tokens of the longest row."""
    mean_length: float
    supervised_share: float
    held_out: int
    """Examples that judge."""
    shared: SharedPrefix = NO_SHARED_PREFIX
    judged_by_all: bool = False
    """With rewards every held-out example judges; else as many as keep evaluations within their share."""

    @property
    def eval_tokens(self) -> float:
        """Tokens of all evaluations of a trial, as a run that is not told otherwise chooses them."""
        if self.judged_by_all or not self.held_out:
            return EVALS * self.held_out * self.mean_length
        lengths = [self.mean_length] * self.held_out
        found = choose_evaluation(lengths, self.steps * self.batch_size * self.mean_length, EVALS)
        return found.evaluations * found.examples * self.mean_length


def build_plan(
    shapes: Shapes,
    request: PlanSpec,
    *,
    facts: DataFacts | None = None,
    bits_per_token: float | None = None,
    pilot: tuple[ExcessDescriptionLength, str] | None = None,
    hardware: Hardware | None = None,
) -> Plan:
    """Plan one model.

    Args:
        shapes: the model.
        request: what is fixed; the rest is chosen. The names in it (hardware, pilot, data's columns) were looked up by
            whoever calls, and what they mean is given beside it.
        facts: the data, with an example or more; without them a length is assumed and the confidence is low.
        bits_per_token: the base's own loss on a sample of the data, measured; else a prior.
        pilot: EDL of a finished run, and what it is called.
        hardware: what it is to run on: memory is then checked against it. When not given, the least device with a
            price that holds the method is assumed for time and money.
    """
    if request.mesh is not None:
        require(request.mesh, divisible(shapes))
    require_blocks(shapes, _full(request), request.devices)
    length, mean, share = _rows(shapes, request, facts)
    budget = _budget(shapes, request, length, share, hardware)
    found = advise(shapes, request, facts, bits_per_token=bits_per_token, pilot=pilot, fits=budget.fits)
    choice = found.choice
    if hardware is None:
        budget = replace(budget, hardware=budget.cheapest(found.method))
    rows = choice.batch_size * (request.group_size if request.objective == "rl" else 1)
    work = RunShape(
        rows,
        choice.steps,
        length,
        mean,
        share,
        0 if facts is None else facts.held_out,
        budget.shared,
        request.objective == "rl",
    )
    budget = replace(budget, batch=rows)
    estimator = CostEstimator(shapes, request, work, budget)
    return Plan(
        shapes=shapes,
        request=request,
        facts=facts,
        information=found.information,
        advice=found.advice,
        hardware=budget.hardware,
        hardware_assumed=hardware is None,
        lora=estimator.method_plan(found.lora, sum(found.lora_parameters.values()), found.lora_rate),
        full=estimator.method_plan(_full(request), shapes.total, found.full_rate),
        batch_size=choice.batch_size,
        steps=choice.steps,
        length=length,
        by_target=found.lora_parameters,
        expected=found.expected,
        capacity=_capacity(shapes, found),
        trust=trust(shapes, _rates(found), found.information, found.expected, budget.hardware, request.devices),
        price_given=request.price is not None,
        study=estimator.study_cost(found.lora),
    )


def _budget(
    shapes: Shapes, request: PlanSpec, length: int, supervised_share: float, hardware: Hardware | None
) -> MemoryBudget:
    """What memory is counted by, before the method is chosen."""
    budget = MemoryBudget(
        shapes,
        length,
        max(1, round(length * supervised_share)),
        request.checkpoint_activations,
        request.devices,
        hardware,
        request.mesh,
        optimizer=type(request.optimizer),
        offload_activations=request.offload_activations,
    )
    if request.objective == "rl":
        return replace(budget, shared=SharedPrefix(length - request.max_tokens, request.group_size))
    return budget


def _full(request: PlanSpec) -> FullFT:
    """The full fine-tuning that was asked for; the plain one when none was."""
    return request.method if isinstance(request.method, FullFT) else FullFT()


def _rates(found: Advised) -> tuple[RatePrior, RatePrior]:
    """Of the planned method, and of the other one."""
    both = found.lora_rate, found.full_rate
    return both if isinstance(found.method, LoRA) else both[::-1]


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


@dataclass(frozen=True)
class CostEstimator:
    """What each method costs on one workload."""

    shapes: Shapes
    request: PlanSpec
    work: RunShape
    budget: MemoryBudget

    def method_plan(self, method: FullFT | LoRA, trainable: int, rate: RatePrior) -> MethodPlan:
        """One column."""
        placement = self.budget.placement(method)
        rows = self._micro_batch(method, placement)
        need = self.budget.need(method, rows, placement.mesh)
        fits = placement.fits and self.budget.holds(need)
        work = self.work
        length, shared = max(1, round(work.mean_length)), work.shared.for_method(method)
        adds = shared_adds(self.shapes, method, length, work.supervised_share, shared)
        run = self.run_cost(method)
        return MethodPlan(
            method=method,
            trainable=trainable,
            rate=rate,
            memory=need,
            micro_batch=rows,
            fits=fits,
            remedy="" if fits is not False else self.budget.remedy(method),
            lean=lean_fit(self.budget, self.shapes.context) if fits is False and isinstance(method, FullFT) else None,
            smallest=self.budget.smallest(method),
            flops_per_token=2 * adds.total,
            shipped_bytes=adapter_bytes(trainable, kind_of(method, type(self.request.optimizer)).WEIGHTS),
            seconds=None if run is None else run.seconds,
            money=None if run is None else run.money,
            placement=placement,
            slices=self.budget.slices(method, placement.mesh),
            sent_bytes=0.0 if run is None else run.sent_bytes,
            waiting_share=0.0 if run is None else run.waiting_seconds / run.step_seconds,
        )

    def _micro_batch(self, method: FullFT | LoRA, placement: Placement) -> int:
        """The largest power of two of rows that fits, up to a device's share of the batch; 1 if none does."""
        share = placement.rows(self.work.batch_size)
        if steps_in_backward(method):
            return share
        rows = min(self.request.micro_batch_size or share, share)
        while rows > 1 and self.budget.holds(self.budget.need(method, rows, placement.mesh)) is False:
            rows = 1 << ((rows - 1).bit_length() - 1)
        return rows

    def run_cost(self, method: FullFT | LoRA) -> RunCost | None:
        """The time and money of a run; None without hardware."""
        if self.budget.hardware is None:
            return None
        placement = self.budget.placement(method)
        share = placement.rows(self.work.batch_size)
        return run_cost(
            self.shapes,
            method,
            self.budget.hardware,
            rows=self.work.batch_size,
            steps=self.work.steps,
            length=max(1, round(self.work.mean_length)),
            supervised_share=self.work.supervised_share,
            shared=self.work.shared.for_method(method),
            eval_tokens=self.work.eval_tokens,
            checkpoint_activations=self.request.checkpoint_activations,
            price_per_hour=self.request.price,
            mesh=placement.mesh,
            deals_rows=placement.deals_rows,
            passes=-(-share // self._micro_batch(method, placement)),
            optimizer=type(self.request.optimizer),
        )

    def study_cost(self, lora: LoRA) -> StudyCost | None:
        """What measuring the regret would take; None without hardware, and for RL, whose sampling is not counted."""
        runs = self.run_cost(lora), self.run_cost(_full(self.request))
        hardware = self.budget.hardware
        if runs[0] is None or runs[1] is None or hardware is None or self.request.objective == "rl":
            return None
        length = max(1, round(self.work.mean_length))
        placement = self.budget.placement(lora)
        if placement.deals_rows:
            rows = placement.rows(self.work.batch_size)
            gain = packing_gain(self.shapes, lora, hardware, rows=rows, length=length)
        else:  # the device with most trials is the last to be done
            gain = PACK / -(-PACK // placement.mesh.data)
        return study_cost(runs[0], runs[1], packing=gain, apart=1 if placement.deals_rows else placement.mesh.data)
