"""What to train, why, how sure that is, what would change it, and what to beware of. Torch-free.

Every threshold names its source. Thresholds without one are our own judgement and say so: they choose between settings
that are known to be close.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lowregret.plan.advice.capacity import Information, rank_for
from lowregret.plan.advice.regret import (
    LAG_EPOCHS,
    LAG_FACTOR,
    LOSING,
    NEGLIGIBLE,
    ExpectedRegret,
    expected_regret,
    room,
)
from lowregret.plan.formatting import describe
from lowregret.plan.formatting import share as percent
from lowregret.plan.resources.flops import multiply_adds
from lowregret.plan.shapes.adapters import lora_parameters
from lowregret.plan.shapes.weights import Shapes
from lowregret.quantities import bits, count
from lowregret.spec import FullFT, LoRA

Objective = Literal["sft", "rl"]
Confidence = Literal["high", "medium", "low"]

LARGEST_RANK = 512
"""The highest that the post trained (SCIENCE 2)."""
_RANK_SFT = 64
"""In the public sweep (SCIENCE 4) going from rank 16 to 64 gains 0.2 to 1.8 % of the loss, from 64 to 128 at most
0.5 %."""
_RANK_LEAST = 16
_RANK_RL = 8
"""Rank 1 is enough (SCIENCE 3.7); 8 keeps clear of rank 1's lower best rate (3.2) for next to nothing."""
LARGEST_LORA_BATCH = 32
"""Where the post found the gap to FullFT small; it grew above (SCIENCE 3.5)."""
LEAST_BATCH = 4
RL_BATCH = 8
SHORT_RUN_STEPS = 100
"""SCIENCE 3.3."""
_MOST_EPOCHS = 3.0
_SMALLEST_STUDIED = 1e9
"""Parameters of the smallest base in the post's and the sweep's evidence."""


@dataclass(frozen=True)
class Choice:
    """What is advised, before any number of it is worked out."""

    method: FullFT | LoRA
    batch_size: int
    epochs: float | None
    """None when the length is given in steps."""
    steps: int
    rank_needed: int | None
    """From this rank on capacity costs less than 1 % of what FullFT learns; None when no rank is enough."""
    lora: LoRA
    """The LoRA advised, or the one that was weighed and found too small where FullFT is."""
    expected: ExpectedRegret | None
    """Of that LoRA; None without data, and with rewards."""
    confidence: Confidence
    confidence_reason: str
    reasons: tuple[str, ...]
    would_change: tuple[str, ...]


@dataclass(frozen=True)
class Advice:
    """The answer, as the page, the JSON, `compare` and `train` print it."""

    choice: Choice
    learning_rate: float
    warnings: tuple[str, ...]

    @property
    def method(self) -> str:
        return self.choice.method.name

    def as_dict(self) -> dict[str, Any]:
        """The `advice` of --json."""
        choice, method = self.choice, self.choice.method
        lora = method if isinstance(method, LoRA) else None
        return {
            "method": method.name,
            "rank": lora and lora.rank,
            "targets": lora and list(lora.targets),
            "learning_rate": self.learning_rate,
            "batch_size": choice.batch_size,
            "epochs": choice.epochs,
            "steps": choice.steps,
            "confidence": choice.confidence,
            "confidence_reason": choice.confidence_reason,
            "reasons": list(choice.reasons),
            "would_change": list(choice.would_change),
            "warnings": list(self.warnings),
        }

    def lines(self, warnings: Sequence[str] | None = None) -> list[str]:
        """The short form: the answer, its first reason, and every warning (or those given)."""
        choice = self.choice
        answer = (
            f"plan: {describe(choice.method)} at learning rate {self.learning_rate:.2g}, batch {choice.batch_size}; "
            f"confidence {choice.confidence}: {choice.confidence_reason}"
        )
        said = self.warnings if warnings is None else warnings
        return [
            answer,
            *(f"plan: {reason}" for reason in choice.reasons[:1]),
            *(f"plan: warning: {one}" for one in said),
        ]


@dataclass(frozen=True)
class Situation:
    """What the choice rests on."""

    shapes: Shapes
    objective: Objective
    information: Information | None
    """None without data."""
    examples: int
    """Training examples; 0 without data."""
    batch_size: int | None
    epochs: float | None
    steps: int | None
    """What the user fixed, each None when open."""
    fits: Callable[[FullFT | LoRA], bool | None]
    """Whether a method fits on the hardware named; None when none is named."""


def choose(situation: Situation) -> Choice:
    """LoRA or FullFT, at which rank, batch and length."""
    shapes, information = situation.shapes, situation.information
    batch = situation.batch_size or _batch(situation)
    epochs, steps = _length(situation, batch)
    passes = passes_of(situation, batch, epochs, steps)
    needed = None if information is None else rank_for(shapes, _reached(information, passes), room(information))
    limit = _largest_rank(shapes)
    usual = _RANK_RL if situation.objective == "rl" else usual_rank(shapes)
    short_of_room = information is not None and (needed is None or needed > limit)
    lora = LoRA(rank=_that_fits(limit if short_of_room else max(usual, needed or 1), situation.fits))
    expected = _expected(situation, lora, passes)
    beyond = expected is not None and _loses(expected)
    method: FullFT | LoRA = FullFT() if beyond and situation.fits(FullFT()) is not False else lora
    draft = Choice(method, batch, epochs, steps, needed, lora, expected, "medium", "", (), ())
    confidence, why = _confidence(situation, draft, beyond)
    return replace(
        draft,
        confidence=confidence,
        confidence_reason=why,
        reasons=tuple(_reasons(situation, draft, beyond)),
        would_change=tuple(_would_change(situation, draft, beyond)),
    )


def passes_of(situation: Situation, batch: int, epochs: float | None, steps: int) -> float:
    """Over the training data; 1 without any. Whole epochs end with a batch that may be short, so that steps times rows
    would be too many."""
    if epochs is not None or not situation.examples:
        return 1.0 if epochs is None else epochs
    return steps * batch / situation.examples


def _reached(information: Information, passes: float) -> float:
    """Bits that the run meets; those of rewards are of its own episodes."""
    return information.to_hold * (1.0 if information.unit == "rewards" else min(passes, 1.0))


def _expected(situation: Situation, lora: LoRA, passes: float) -> ExpectedRegret | None:
    if situation.information is None:
        return None
    by_target = lora_parameters(situation.shapes, lora.rank, lora.targets, lora.convention)
    return expected_regret(situation.information, by_target, situation.shapes.total, epochs=passes)


def _loses(expected: ExpectedRegret) -> bool:
    """Whether the highest rank that may be advised is not under the tolerance.

    In an unknown regime the lag is a case among others, and no reason to give up LoRA.
    """
    return expected.value - (expected.lag if expected.regime == "unknown" else 0.0) >= LOSING


def usual_rank(shapes: Shapes) -> int:
    """64, or less in a narrow base: at rank hidden/32 an adapter adds 3/32 to the multiply-adds (SCIENCE 3.9)."""
    return max(_RANK_LEAST, min(_RANK_SFT, _power_of_two(shapes.hidden_size / 32)))


def _largest_rank(shapes: Shapes) -> int:
    """What may be advised: no more than was studied, nor, but for the least usual rank, than costs less than FullFT
    (N/6, SCIENCE 3.9): in a base of width 32 rank 16 lost 4 % of what is learned and rank 1 15 % (`study scaling`).
    """
    return max(_RANK_LEAST, min(LARGEST_RANK, _power_of_two(shapes.hidden_size / 6)))


def _power_of_two(limit: float) -> int:
    return 1 << max(math.floor(math.log2(limit)), 0) if limit >= 1 else 1


def _that_fits(rank: int, fits: Callable[[FullFT | LoRA], bool | None]) -> int:
    """Halved while it does not fit; the rank itself where none does."""
    halved = (rank >> times for times in range(rank.bit_length()))
    return next((smaller for smaller in halved if fits(LoRA(rank=smaller)) is not False), rank)


def _batch(situation: Situation) -> int:
    """The largest power of two up to 32 that leaves the run a hundred steps or more, and at least 4. Where the steps
    are given, what covers the data as often as they must be met."""
    if situation.objective == "rl":
        return RL_BATCH
    if situation.steps is not None:
        wanted = situation.examples * _least_epochs(situation)
        per_step = wanted / situation.steps if wanted else LARGEST_LORA_BATCH
    elif situation.examples:
        per_step = situation.examples * (situation.epochs or 1.0) / SHORT_RUN_STEPS
    else:
        per_step = LARGEST_LORA_BATCH
    return min(LARGEST_LORA_BATCH, max(LEAST_BATCH, _power_of_two(per_step)))


def _least_epochs(situation: Situation) -> float:
    """One, or what it takes for LoRA to be level where facts are taught."""
    teaches = situation.information is not None and situation.information.regime == "teach"
    return float(math.ceil(LAG_EPOCHS)) if teaches else 1.0


ASSUMED_STEPS = 1000


def _length(situation: Situation, batch: int) -> tuple[float | None, int]:
    """Epochs (None when steps are given, or nothing is known of the data) and steps."""
    if situation.steps is not None:
        return None, situation.steps
    if not situation.examples:
        return None, ASSUMED_STEPS
    epochs = situation.epochs
    if epochs is None:
        wanted = SHORT_RUN_STEPS * batch / situation.examples
        least = _least_epochs(situation)
        epochs = float(min(_MOST_EPOCHS, max(least, math.ceil(wanted)))) if situation.objective == "sft" else 1.0
    return epochs, max(1, math.ceil(round(situation.examples * epochs) / batch))


# --- how sure -------------------------------------------------------------------------------------------------------


def _confidence(situation: Situation, choice: Choice, beyond: bool) -> tuple[Confidence, str]:
    information = situation.information
    if information is None:
        return "low", "no data were given, so neither capacity nor length is known"
    doubts = list(_doubts(situation, choice, beyond))
    if len(doubts) > 2:
        return "low", "; ".join(doubts)
    if doubts:
        return "medium", "; ".join(doubts)
    return "high", "none of the doubts that the plan knows of holds; how far its numbers may be trusted stands below"


def _doubts(situation: Situation, choice: Choice, beyond: bool) -> Iterator[str]:
    shapes, information = situation.shapes, situation.information
    assert information is not None
    if beyond and choice.expected is not None and choice.expected.lag:
        yield "how far LoRA is behind in a short run differs by a factor of five between those measured"
    elif beyond:
        yield "one pilot, one base" if information.edl_bits is not None else "the bits of the data are an upper bound"
    elif choice.expected is not None and choice.expected.high > NEGLIGIBLE:
        yield f"a regret of up to {percent(choice.expected.high)} of what is learned cannot be ruled out"
    if situation.objective == "rl":
        yield "by reward three bases were tried, in short runs"
    if information.pilot_doubt:
        yield information.pilot_doubt
    if information.regime == "teach":
        yield "training teaches new facts, which LoRA may learn more slowly (arXiv 2405.09673)"
    if shapes.total < _SMALLEST_STUDIED:
        yield "the evidence is on bases of 1 B parameters and more"
    if shapes.experts:
        yield "how best to adapt experts is an open question (SCIENCE 3)"
    if situation.objective == "sft" and choice.steps < SHORT_RUN_STEPS:
        yield "the run is short"
    if situation.objective == "sft" and choice.batch_size > LARGEST_LORA_BATCH:
        yield "the batch is larger than what LoRA is known to bear"


# --- why ------------------------------------------------------------------------------------------------------------


def _reasons(situation: Situation, choice: Choice, beyond: bool) -> Iterator[str]:
    expected = choice.expected
    if isinstance(choice.method, FullFT) and expected is not None:
        if expected.lag and expected.capacity < LOSING:
            few, many = LAG_FACTOR
            yield (
                f"The run ends where LoRA is behind at any rank when it is taught facts: {expected.said()}. With "
                f"{LAG_EPOCHS:g} epochs, or {few:g} to {many:.1f} times the steps, LoRA would be level (SCIENCE 6)."
            )
        else:
            yield (
                f"The data may hold {bits(_to_hold(situation))}, more than a LoRA of rank {choice.lora.rank} can "
                f"without losing {percent(LOSING)} of what is learned ({expected.bits_per_parameter:.2g} bit a "
                f"parameter: {percent(expected.value)}; "
                "docs/findings/2026-11-29-capacity-advice.md)."
            )
        return
    yield from _lora_reasons(situation, choice, beyond)


def _to_hold(situation: Situation) -> float:
    return 0.0 if situation.information is None else situation.information.to_hold


def _lora_reasons(situation: Situation, choice: Choice, beyond: bool) -> Iterator[str]:
    information, shapes, method = situation.information, situation.shapes, choice.method
    assert isinstance(method, LoRA)
    if situation.objective == "rl":
        yield (
            "Policy gradients learn at most a bit an episode, and LoRA matches full fine-tuning down to rank 1 "
            "(SCIENCE 3.7, 3.8)."
        )
    elif beyond and choice.expected is not None:
        yield (
            f"Full fine-tuning would hold more, but does not fit on this hardware: LoRA is expected to lose "
            f"{choice.expected.said()}."
        )
    elif information is None:
        yield "On small and medium data LoRA reaches the loss of full fine-tuning (SCIENCE 3.1)."
    elif choice.expected is not None:
        told = choice.expected
        case = "If training teaches new facts, LoRA" if told.regime == "unknown" else "LoRA"
        late = f" in less than {LAG_EPOCHS:g} epochs, and" if told.lag else ""
        yield (
            f"{case} is expected to lose {told.said()}{late} at {told.bits_per_parameter:.2g} bit a parameter; in "
            "longer runs below capacity it reaches the loss of full fine-tuning (SCIENCE 3.1, 3.8, 6)."
        )
    if situation.objective == "sft" and choice.rank_needed is not None and method.rank > choice.rank_needed:
        yield (
            f"Rank {method.rank}: {choice.rank_needed} would hold the data; in the public sweep loss still falls up to "
            f"about 64 (SCIENCE 4), at {100 * _dearer(shapes, method.rank, choice.rank_needed):.0f} % more "
            "multiply-adds than that (3.9)."
        )
    yield "All matrices: attention alone is clearly worse, at any rank (SCIENCE 3.6)."
    if situation.batch_size is None and situation.objective == "sft":
        yield f"Batch {choice.batch_size}: LoRA can lose with large batches; the gap was small at 32 (SCIENCE 3.5)."


def _dearer(shapes: Shapes, rank: int, other: int) -> float:
    """By what share a token takes more multiply-adds at one rank than at another."""
    row = 1  # positions attend to one another alike at both
    return multiply_adds(shapes, LoRA(rank=rank), row).total / multiply_adds(shapes, LoRA(rank=other), row).total - 1


# --- what would change it -------------------------------------------------------------------------------------------


def _would_change(situation: Situation, choice: Choice, beyond: bool) -> Iterator[str]:
    information = situation.information
    """Facts of the data that would; what should be measured is in `plan.trust`."""
    if information is None:
        return
    if situation.objective == "rl":
        if information.informative_groups is not None and information.informative_groups < 0.5:
            yield "Problems with a pass rate nearer to a half: most groups now have equal rewards and teach nothing."
        return
    if isinstance(choice.method, LoRA) and not beyond and information.to_hold and information.bits_per_token:
        limit = _largest_rank(situation.shapes)
        held = sum(lora_parameters(situation.shapes, limit).values()) * room(information, LOSING)
        tokens = held / information.to_hold * information.bits / information.bits_per_token
        yield (
            f"More than {count(tokens)} such supervised tokens: rank {limit} would then lose {percent(LOSING)} of what "
            "is learned, so full fine-tuning."
        )
    if information.regime_note:
        yield f"A pilot that tells whether training teaches: {information.regime_note}."
