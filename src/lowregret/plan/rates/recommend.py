"""Which learning rate to start from, and how sure that is, before anything is measured. Torch-free.

What a public sweep tells is the law of law.py. What the sweep does not vary (full fine-tuning, targets, alpha, batch,
length, RL) is a term of its own, and each says where it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lowregret.errors import SpecError
from lowregret.plan.rates.law import LAW, SWEEP_BATCH, SWEEP_RANKS, SWEEP_STEPS, group_of
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import FullFT, LoRA


@dataclass(frozen=True)
class RatePrior:
    """A learning rate to start from."""

    value: float
    low: float
    high: float
    """The measured best rate is meant to lie from low to high in about nine cases of ten."""
    sources: tuple[str, ...]
    """One sentence for each term, with where it comes from."""


class _Term(NamedTuple):
    shift: float
    """Added to ln rate."""
    spread: float
    """Half the interval of 90 % in ln rate that this term adds, independently of the others."""
    source: str


def recommend(
    method: FullFT | LoRA,
    shapes: Shapes,
    *,
    batch_size: int,
    steps: int,
    objective: Literal["sft", "rl"] = "sft",
) -> RatePrior:
    """The best learning rate as far as it can be told beforehand, with an interval.

    Args:
        method: full fine-tuning, or a LoRA with its rank, alpha, targets and variants.
        shapes: the model; its `family`, `hidden_size` and `total` are used.
        batch_size: examples a step.
        steps: optimizer steps of the whole run.
        objective: sft, or rl by policy gradient.

    At the sweep's own setting the value is that of `LAW`, which the yardstick is measured with
    (docs/findings/2026-11-24-learning-rate-law.md). Elsewhere every term adds to ln rate, and the half-widths add up as
    a root of squares. SpecError: a batch or a length below 1.
    """
    for name, given in (("batch_size", batch_size), ("steps", steps)):
        if given < 1:
            raise SpecError(f"{name}: {given} is too small for a learning rate. Give 1 or more.")
    terms = [*_base_terms(method, shapes), *_method_terms(method, shapes, steps)]
    terms += _setting_terms(method, batch_size, steps) if objective == "sft" else [_RL]
    middle = sum(term.shift for term in terms)
    half = math.hypot(*(term.spread for term in terms))
    return RatePrior(
        math.exp(middle), math.exp(middle - half), math.exp(middle + half), tuple(term.source for term in terms)
    )


def _base_terms(method: FullFT | LoRA, shapes: Shapes) -> Iterator[_Term]:
    """What the sweep tells: rank, size, family."""
    rank = method.rank if isinstance(method, LoRA) else FULL_REFERENCE_RANK
    group, total = group_of(shapes.family), shapes.total
    known = group in LAW.offsets
    family = (
        f"the family {group} shifts it by x{math.exp(LAW.offsets[group]):.2f}"
        if known
        else f"the family {shapes.family} is not in it, so the interval is wider"
    )
    yield _Term(
        LAW.log_rate(group, total, rank),
        LAW.width if known else LAW.width_unknown,
        "Fitted on the public tulu3 sweep of 23 models (docs/science.md 4; "
        f"docs/findings/2026-11-24-learning-rate-law.md): {LAW.level:.3g} for rank 1 and "
        f"10 B parameters, with rank to the power {LAW.rank_power:.2f} (flattening above 128), parameters to the power "
        f"{LAW.size_power:.2f}; {family}.",
    )
    smallest, largest = LAW.sizes
    beyond = max(math.log(smallest / total), math.log(total / largest), 0.0)
    if beyond:
        yield _Term(
            0.0,
            abs(LAW.size_power) * beyond,
            f"The sweep has {smallest:.2g} to {largest:.2g} parameters, this model {total:.2g}: the interval "
            "also holds the rate at the nearest size of the sweep.",
        )
    if rank > SWEEP_RANKS[1]:
        yield _Term(
            0.0,
            LAW.rank_power * math.log(rank / SWEEP_RANKS[1]),
            f"The sweep ends at rank {SWEEP_RANKS[1]}: the interval also holds the rate there.",
        )


# --- the method -------------------------------------------------------------------------------------------------------

FULL_REFERENCE_RANK = 32
_SHORT_STEPS, _SHORT_RATIO = 100, 15.0
_LONG_STEPS, _LONG_RATIO = 1000, 10.0
_NARROW = 600
_RATIO_SPREAD = math.log(1.5)
_NARROW_SPREAD = math.log(2.0)
_TARGET_FACTORS: Mapping[tuple[str, ...], float] = {("attention",): 3.5 / 2.5, ("mlp",): 3.0 / 2.5}
"""Best rates of rank 256 on attention (3.5e-4), MLP (3.0e-4) and both (2.5e-4): SCIENCE 4, Qwen3-4B."""


def ratio(steps: int) -> float:
    """LoRA's best rate over FullFT's: 15 up to 100 steps (SCIENCE 3.3), 10 from 1,000 on (3.2).

    In between linear in log steps; where between the two it falls is our assumption.
    """
    position = math.log(steps / _SHORT_STEPS) / math.log(_LONG_STEPS / _SHORT_STEPS)
    return _SHORT_RATIO + min(max(position, 0.0), 1.0) * (_LONG_RATIO - _SHORT_RATIO)


def _method_terms(method: FullFT | LoRA, shapes: Shapes, steps: int) -> Iterator[_Term]:
    if isinstance(method, LoRA):
        yield from _lora_terms(method)
        return
    yield _Term(
        -math.log(ratio(SWEEP_STEPS)),
        _RATIO_SPREAD,
        f"FullFT's best rate is LoRA's at rank {FULL_REFERENCE_RANK} over {ratio(SWEEP_STEPS):.3g}: the ratio is 10 in "
        "long and 15 in short runs (docs/science.md 3.2, 3.3); the reference rank is our assumption.",
    )
    if shapes.hidden_size < _NARROW:
        factor = min(_NARROW / shapes.hidden_size, ratio(SWEEP_STEPS))
        yield _Term(
            math.log(factor),
            _NARROW_SPREAD,
            "In narrow bases the ratio is smaller (about 10 at hidden size 576: "
            "docs/findings/2026-11-24-smollm2-gsm8k.md; 1.8 to 3.75 at 128: docs/findings/2026-11-24-demo-first.md): "
            f"x{factor:.2f}, in proportion to the hidden size below {_NARROW}.",
        )


def _lora_terms(method: LoRA) -> Iterator[_Term]:
    targets = tuple(target for target in method.targets if target != "unembedding")
    factor = _TARGET_FACTORS.get(targets)
    if factor is not None:
        yield _Term(
            math.log(factor),
            math.log(factor),
            f"Adapters on {targets[0]} alone want x{factor:.2f} (Qwen3-4B at rank 256: 3.5e-4 on attention, 3.0e-4 on "
            "MLP, 2.5e-4 on both: docs/science.md 4).",
        )
    elif targets != ("attention", "mlp"):
        yield _Term(
            0.0,
            math.log(1.4),
            "No measurement of these targets: the rate of all, with a wider interval (our assumption).",
        )
    scale = method.scale * method.rank / 32
    if not math.isclose(scale, 1.0):
        yield _Term(
            -0.5 * math.log(scale),
            0.5 * abs(math.log(scale)),
            f"The update is scaled {scale:.3g} times as much as with alpha 32 over r: x{scale**-0.5:.2f}, the root of "
            "the inverse (docs/science.md 3.10 with one rate for A and B; so r^-1/4 for 1/sqrt(r) scaling, "
            "docs/science.md 5).",
        )
    rates = method.a_rate * method.b_rate
    if rates != 1:
        yield _Term(
            -0.5 * math.log(rates),
            0.5 * abs(math.log(rates)),
            f"A learns at {method.a_rate:g} and B at {method.b_rate:g} times the rate: x{rates**-0.5:.2f}, so that the "
            "product of their rates stays (from docs/science.md 3.10; our assumption).",
        )
    if method.init_scale != 1:
        yield _Term(
            0.0,
            0.5 * abs(math.log(method.init_scale)),
            f"A starts {method.init_scale:g} times as large: A wants a rate as many times as large and B one as many "
            "times smaller (docs/science.md 3.10), so the rate stays and the interval is wider.",
        )
    if method.residual:
        yield _Term(
            -math.log(2),
            math.log(3),
            f"{method.init} wants a smaller rate than the uniform start (docs/science.md 5): a half is our assumption.",
        )
    if method.dora or method.init == "orthogonal":
        yield _Term(0.0, math.log(1.5), "A variant of LoRA that the sweep does not have: a wider interval.")


# --- the setting ------------------------------------------------------------------------------------------------------

BATCH_POWER = 1 / 8
_SETTING_SPREAD, _MOST_SETTING_SPREAD = 0.7, 1.4
"""Of ln rate: for each e-fold that batch and length are away from the sweep's, and at most. Set so that the intervals
hold the ten best rates measured elsewhere, the farthest at 1/4 of the value (benchmarks/learning_rate.py): chosen to
fit them, so not confirmed by them."""
_RL = _Term(
    0.0,
    math.log(3),
    "RL by policy gradient: the rate of SFT at the sweep's setting, whatever batch and length, with a wider interval "
    "(the range of good rates is wider, docs/science.md 3.7); that they are centred alike is our assumption.",
)


def _setting_terms(method: FullFT | LoRA, batch_size: int, steps: int) -> Iterator[_Term]:
    """How far the run is from the sweep's batch and length."""
    far = math.hypot(math.log(batch_size / SWEEP_BATCH), math.log(steps / SWEEP_STEPS))
    spread = min(far * _SETTING_SPREAD, _MOST_SETTING_SPREAD)
    if batch_size != SWEEP_BATCH:
        factor = (batch_size / SWEEP_BATCH) ** BATCH_POWER
        yield _Term(
            math.log(factor),
            spread,
            f"Batch {batch_size} where the sweep had {SWEEP_BATCH}: x{factor:.2f}, to the power 1/8: our assumption, "
            "between none, which measurements at batch 8 and 32 fit (docs/science.md 4, "
            "docs/findings/2026-11-24-smollm2-gsm8k.md), and the root rule for Adam (arXiv 2205.10287). "
            "The interval is wider.",
        )
        spread = 0.0
    if steps != SWEEP_STEPS:
        factor = math.sqrt(ratio(steps) / ratio(SWEEP_STEPS))
        factor = factor if isinstance(method, LoRA) else 1 / factor
        yield _Term(
            math.log(factor),
            spread,
            f"{steps} steps where the sweep had {SWEEP_STEPS}: x{factor:.2f}; LoRA's ratio to FullFT is 15 in short "
            "runs and 10 in long ones (docs/science.md 3.3), of which each method moves by the root (our assumption).",
        )
