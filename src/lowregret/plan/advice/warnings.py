"""What is known to go wrong with a plan. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lowregret.data.facts import DataFacts
from lowregret.plan.advice.choice import LARGEST_LORA_BATCH, Situation
from lowregret.plan.advice.regret import (
    ATTENTION_ALONE,
    NEGLIGIBLE,
    ExpectedRegret,
    on_attention_alone,
    room,
)
from lowregret.plan.formatting import share
from lowregret.plan.rates.recommend import RatePrior
from lowregret.plan.rates.reward import by_reward
from lowregret.spec import FullFT, LoRA

_FEW_HELD_OUT = 100
_STEEP = 1.25
"""Times the advised rate from which on a rate by reward is warned of, though its interval may hold it: the least that
destroyed a policy (Llama-3.1-8B-Instruct, rank 64, at 6e-5: benchmarks/tables/unseen_rates.csv)."""
_CHAT = "on public chat data rank 4 was 0.7 to 5.1 % of the loss behind rank 128 (SCIENCE 4)"
"""Of the seven bases of the public sweep with both ranks, each at its best rate."""


@dataclass(frozen=True)
class PlannedRun:
    """What is planned in the end, by the user's wish or by advice, with the numbers that warnings need."""

    method: FullFT | LoRA
    batch_size: int
    learning_rate: float | None
    """The user's; None for the recommended one."""
    lora_rate: RatePrior
    """Where a LoRA's best rate is expected."""
    full_rate: RatePrior
    by_target: Mapping[str, int]
    """Parameters of the method, when it is a LoRA, by what they adapt."""
    expected: ExpectedRegret | None
    """Of the method, when it is a LoRA; None without data, and with rewards."""
    break_even_rank: float
    """Over all adapted matrices."""


def warn(situation: Situation, planned: PlannedRun, facts: DataFacts | None) -> tuple[str, ...]:
    """Everything about the plan that is known to go wrong, as sentences."""
    found = [*_rate(planned), *_batch(situation, planned)]
    if isinstance(planned.method, LoRA):
        found += [*_lora(situation, planned, planned.method), *_capacity(situation, planned)]
    if situation.fits(planned.method) is False:
        found.append("It does not fit on this hardware, even with one row at a time: see the memory.")
    found += _data(situation, facts)
    if situation.information is not None and situation.information.pilot_doubt:
        found.append(f"{situation.information.pilot_doubt[0].upper()}{situation.information.pilot_doubt[1:]}.")
    information = situation.information
    if situation.objective == "rl" and information is not None and situation.examples and not information.bits:
        found.append("Every group has equal rewards, so nothing is learned: choose problems that are solved sometimes.")
    return tuple(found)


def _rate(planned: PlannedRun) -> Iterator[str]:
    rate = planned.learning_rate
    if rate is None:
        return
    lora = isinstance(planned.method, LoRA)
    prior = planned.lora_rate if lora else planned.full_rate
    low, high = prior.low, prior.high
    if by_reward(prior.terms) and rate > _STEEP * prior.value:
        yield (
            f"Learning rate {rate:.2g} is {rate / prior.value:.2g} times the {prior.value:.2g} that is advised: by "
            "reward, 1.3 to 4 times destroyed the policy (docs/findings/2026-11-29-rates-elsewhere.md)."
        )
    elif lora and rate < low and rate <= planned.full_rate.high:
        yield (
            f"Learning rate {rate:.2g} is one for full fine-tuning: LoRA's best is about 10× as high (SCIENCE 3.2), "
            f"here {low:.2g} to {high:.2g}."
        )
    elif not lora and rate > high and rate >= planned.lora_rate.low:
        yield (
            f"Learning rate {rate:.2g} is one for LoRA: full fine-tuning takes {low:.2g} to {high:.2g} here "
            "(SCIENCE 3.2)."
        )
    elif not low <= rate <= high:
        yield f"Learning rate {rate:.2g} lies outside of {low:.2g} to {high:.2g}, where the best one is expected."


def _batch(situation: Situation, planned: PlannedRun) -> Iterator[str]:
    size = planned.batch_size
    if isinstance(planned.method, LoRA) and situation.objective == "sft" and size > LARGEST_LORA_BATCH:
        yield (
            f"Batch {size} is large for LoRA: it can lose more than full fine-tuning as the batch grows, at any rank "
            f"(SCIENCE 3.5). Use {LARGEST_LORA_BATCH} or less."
        )
    if situation.examples and size > situation.examples:
        yield f"Batch {size} is larger than the {situation.examples:,} training examples."


def _lora(situation: Situation, planned: PlannedRun, method: LoRA) -> Iterator[str]:
    if on_attention_alone(planned.by_target):
        least, _, most = (100 * part for part in ATTENTION_ALONE)
        yield (
            "Attention only: clearly worse than the MLP alone, even with more parameters (SCIENCE 3.6), by "
            f"{least:.0f} to {most:.0f} % of what is learned where it was measured. Use `all`."
        )
    if method.quantisation != "none":
        plain = method.model_copy(update={"quantisation": "none"}).name
        yield (
            f"Over a base in {method.quantisation.upper()} nothing is expected of the regret beyond that of {plain}: "
            f"compare --methods {plain},{method.name},full measures it. What is trained is merged into the base as it "
            "is, which is another: ship and merge tell the loss both ways."
        )
    even = situation.shapes.hidden_size / 6
    if method.rank > even:
        yield (
            f"Rank {method.rank} is above the break-even of hidden/6 = {even:.0f}: a square matrix then costs more "
            "multiply-adds than full fine-tuning (SCIENCE 3.9); over all that is adapted here the break-even is "
            f"{planned.break_even_rank:.0f}."
        )


def _capacity(situation: Situation, planned: PlannedRun) -> Iterator[str]:
    information, expected = situation.information, planned.expected
    if information is None or information.to_hold <= 0:
        return
    if expected is None:
        each = information.to_hold / max(sum(planned.by_target.values()), 1)
        if each > room(information):
            yield (
                f"The data are near capacity: {each:.2g} bit a parameter, and a LoRA began to lose at "
                f"{room(information):g} when it was taught facts (SCIENCE 5). Raise the rank."
            )
        return
    if expected.value - expected.placement <= NEGLIGIBLE:
        return
    told = f"a regret of {expected.said()}: {'; '.join(expected.parts())}."
    if expected.regime == "unknown":
        other = f"up to {share(expected.high)}" if information.unit == "edl" else "less"
        if other == "less" and expected.capacity > NEGLIGIBLE:
            other = f"less: {_CHAT}"
        known = "" if information.unit == "edl" else " A pilot tells which (--pilot)."
        yield (
            f"If training teaches new facts, expect {told} If it draws out what the base knows, expect {other}.{known}"
        )
    else:
        yield f"Expect {told}"


def _data(situation: Situation, facts: DataFacts | None) -> Iterator[str]:
    if facts is None:
        return
    if situation.objective == "sft" and facts.held_out < _FEW_HELD_OUT:
        yield (
            f"Only {facts.held_out:,} held-out examples: a regret would have a wide interval. Hold out {_FEW_HELD_OUT} "
            "or more (--eval-data)."
        )
    if situation.objective == "sft" and not facts.supervised_tokens:
        yield f"Cut to {facts.max_length:,} tokens, no example keeps a supervised one: raise --max-length."
    elif facts.overlong:
        number = f"{facts.overlong:,}" if facts.counted == "exact" else f"About {facts.overlong:,}"
        yield f"{number} examples are over {facts.max_length:,} tokens and would be cut (--max-length)."
    context = situation.shapes.context
    if context is not None and facts.longest > context:
        yield f"An example has {facts.longest:,} tokens, the base {context:,} positions. Use --max-length {context}."
