"""From a model, data and a request to the advice: what `plan`, `train` and `compare` have in common. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lowregret.data.facts import DataFacts
from lowregret.plan.advice.capacity import FinishedRun, Information, of_finished_run, rl_information, sft_information
from lowregret.plan.advice.choice import RL_BATCH, Advice, Choice, Situation, choose, passes_of
from lowregret.plan.advice.regret import ExpectedRegret, expected_regret
from lowregret.plan.advice.warnings import PlannedRun, warn
from lowregret.plan.rates.recommend import RatePrior, recommend
from lowregret.plan.shapes.adapters import adaptable, lora_parameters
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import FullFT, LoRA
from lowregret.spec.plan import PlanSpec


@dataclass(frozen=True)
class Advised:
    """The advice, and what it was made from."""

    advice: Advice
    information: Information | None
    method: FullFT | LoRA
    """The one asked for, else the advised one."""
    lora: LoRA
    """The LoRA asked for, else the advised one, else the one that was weighed."""
    lora_parameters: dict[str, int]
    """Of that LoRA, by target."""
    expected: ExpectedRegret | None
    """Of that LoRA; None without data, and with rewards."""
    lora_rate: RatePrior
    full_rate: RatePrior

    @property
    def choice(self) -> Choice:
        """What is advised, without its numbers."""
        return self.advice.choice


def advise(
    shapes: Shapes,
    request: PlanSpec,
    facts: DataFacts | None = None,
    *,
    bits_per_token: float | None = None,
    pilot: FinishedRun | None = None,
    fits: Callable[[FullFT | LoRA], bool | None] = lambda method: None,
) -> Advised:
    """Choose what is open, judge what is fixed.

    Args:
        shapes, request, facts: the model, what the user fixed, and the data, if any.
        bits_per_token: the base's own loss on a sample of the data, measured; else a prior.
        pilot: a finished run.
        fits: whether a method fits on the hardware; None when none is named.
    """
    information = _information(request, facts, bits_per_token, pilot)
    examples = 0 if facts is None else facts.examples
    situation = Situation(
        shapes, request.objective, information, examples, request.batch_size, request.epochs, request.steps, fits
    )
    choice = choose(situation)
    method = request.method or choice.method
    lora = method if isinstance(method, LoRA) else choice.lora
    parameters = lora_parameters(shapes, lora.rank, lora.targets, lora.convention)

    passes = passes_of(situation, choice.batch_size, choice.epochs, choice.steps)
    expected = None if information is None else expected_regret(information, parameters, shapes.total, epochs=passes)

    def rate(of: FullFT | LoRA) -> RatePrior:
        return recommend(
            of,
            shapes,
            batch_size=choice.batch_size,
            steps=choice.steps,
            schedule=request.schedule,
            objective=request.objective,
        )

    lora_rate, full_rate = rate(lora), rate(FullFT())
    about = PlannedRun(
        method=method,
        batch_size=choice.batch_size,
        learning_rate=request.learning_rate,
        lora_rate=lora_rate,
        full_rate=full_rate,
        by_target=parameters,
        expected=expected,
        break_even_rank=break_even_rank(shapes, lora),
    )
    advice = Advice(choice, rate(choice.method).value, warn(situation, about, facts))
    return Advised(advice, information, method, lora, parameters, expected, lora_rate, full_rate)


def _information(
    request: PlanSpec,
    facts: DataFacts | None,
    bits_per_token: float | None,
    pilot: FinishedRun | None,
) -> Information | None:
    """What the run can learn; None without data."""
    if facts is None:
        return None
    if request.objective == "rl":
        batch = request.batch_size or RL_BATCH
        problems = request.steps * batch if request.steps else facts.examples * (request.epochs or 1.0)
        return rl_information(
            round(problems * request.group_size),
            request.group_size,
            0.5 if request.pass_rate is None else request.pass_rate,
        )
    if pilot is not None:
        return of_finished_run(facts.supervised_tokens, pilot).with_facts(facts.fact_bits)
    return sft_information(facts.supervised_tokens, bits_per_token).with_facts(facts.fact_bits)


def break_even_rank(shapes: Shapes, lora: LoRA) -> float:
    """The rank at which a LoRA costs as many multiply-adds as full training of what it adapts (SCIENCE 3.9).

    3·d_in·d_out = 2·d_in·d_out + 3R(d_in + d_out), summed over the matrices that a token passes through.
    """
    kinds = {kind for kind, count in lora_parameters(shapes, 1, lora.targets, lora.convention).items() if count}
    weights = [weight for weight in adaptable(shapes) if weight.kind in kinds]
    full = sum(weight.size * weight.active for weight in weights)
    divided = {"per-active": shapes.active_experts, "per-total": shapes.experts}.get(lora.convention, 1) or 1
    per_rank = sum(
        sum(weight.shape) * weight.active / (divided if weight.kind == "experts" else 1) for weight in weights
    )
    return full / (3 * per_rank) if per_rank else float("inf")
