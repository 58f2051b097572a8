"""What full fine-tuning, other matrices, scales and variants do to the best learning rate. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from lowregret.plan.rates.law import LAW, SWEEP_STEPS, effective_rank
from lowregret.plan.rates.setting import FEWEST_STEPS
from lowregret.plan.rates.term import Term
from lowregret.plan.shapes.adapters import lora_parameters
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import FullFT, LoRA

FULL_REFERENCE_RANK = 32
_SHORT_STEPS, _SHORT_RATIO = 100, 15.0
_LONG_STEPS, _LONG_RATIO = 1000, 10.0
_NARROW, _LEAST_RATIO = 600, 2.5
_RATIO_SPREAD = math.log(1.5)
_NARROW_SPREAD = math.log(2.0)
_TARGET_FACTORS: Mapping[tuple[str, ...], float] = {("attention",): 3.5 / 2.5, ("mlp",): 3.0 / 2.5}
"""Best rates of rank 256 on attention (3.5e-4), MLP (3.0e-4) and both (2.5e-4): SCIENCE 4, Qwen3-4B. On `tiny`, rank
16: 1.4 and 1.6 (docs/findings/2026-11-24-studies-full.md)."""
_INIT_FACTORS: Mapping[str, float] = {"pissa": 0.42, "olora": 0.23}
"""Best rate over plain LoRA's, rank 16 on `tiny` (docs/findings/2026-11-24-studies-full.md): both start from large
weights. At rank 128 PiSSA's is 0.37 to 0.40 on Gemma-3-1B; on Qwen3-0.6B-Base it is 0.13, and OLoRA's 0.06
(docs/findings/2026-11-29-rates-elsewhere.md)."""


def ratio(steps: int) -> float:
    """LoRA's best rate over FullFT's: 15 up to 100 steps (SCIENCE 3.3), 10 from 1,000 on (3.2).

    In between linear in log steps; where between the two it falls is our assumption.
    """
    position = math.log(steps / _SHORT_STEPS) / math.log(_LONG_STEPS / _SHORT_STEPS)
    return _SHORT_RATIO + min(max(position, 0.0), 1.0) * (_LONG_RATIO - _SHORT_RATIO)


_ADAFACTOR, _MUON = 4.0, 2.0
"""Their best rates over AdamW's, full fine-tuning of `tiny`."""


def full_terms() -> Iterator[Term]:
    """From LoRA of the reference rank to FullFT, at the sweep's length."""
    usual = ratio(SWEEP_STEPS)
    yield Term(
        -math.log(usual),
        _RATIO_SPREAD,
        "measured",
        "FullFT's ratio",
        f"FullFT's best rate is LoRA's at rank {FULL_REFERENCE_RANK} over {usual:.3g}: the ratio is 10 in long and 15 "
        "in short runs (docs/science.md 3.2, 3.3; 8.8 on Qwen3-4B, 4); the reference rank is our assumption.",
    )


def narrow_terms(shapes: Shapes) -> Iterator[Term]:
    """FullFT's rate comes nearer to LoRA's in narrow bases."""
    if shapes.hidden_size >= _NARROW:
        return
    factor = min(_NARROW / shapes.hidden_size, ratio(SWEEP_STEPS) / _LEAST_RATIO)
    yield Term(
        math.log(factor),
        _NARROW_SPREAD,
        "measured",
        "FullFT's ratio in a narrow base",
        "In narrow bases the ratio is smaller (12 at hidden size 576: docs/findings/2026-11-24-smollm2-gsm8k.md; "
        "2.3, 2.4, 2.0 at 32, 64, 128: docs/findings/2026-11-24-studies-full.md): "
        f"x{factor:.2f}, in proportion to the hidden size below {_NARROW}, down to a ratio of {_LEAST_RATIO:g}.",
    )


def length_terms(method: FullFT | LoRA, steps: int) -> Iterator[Term]:
    """How the two methods move apart as runs get shorter."""
    factor = math.sqrt(ratio(steps) / ratio(SWEEP_STEPS))
    if math.isclose(factor, 1.0):
        return
    factor = factor if isinstance(method, LoRA) else 1 / factor
    yield Term(
        math.log(factor),
        0.0,
        "measured",
        "length",
        f"LoRA's ratio to FullFT is 15 in short runs and 10 in long ones (docs/science.md 3.3): x{factor:.2f} at "
        f"{steps:,} steps, each method moving by the root (our assumption).",
    )


def short_terms(method: LoRA, steps: int) -> Iterator[Term]:
    """Ranks come together in a short run: the power of the rank goes with the logarithm of the steps, from none in
    `FEWEST_STEPS` to the sweep's, about the reference rank."""
    reached = math.log(max(steps, FEWEST_STEPS) / FEWEST_STEPS) / math.log(SWEEP_STEPS / FEWEST_STEPS)
    apart = math.log(effective_rank(method.rank) / effective_rank(FULL_REFERENCE_RANK))
    shift = -max(1 - reached, 0.0) * LAW.rank_power * apart
    if math.isclose(shift, 0.0, abs_tol=1e-12):
        return
    yield Term(
        shift,
        abs(shift) / 2,
        "measured",
        "its rank in a short run",
        f"In {steps:,} steps ranks differ less than in the sweep's {SWEEP_STEPS}: x{math.exp(shift):.2f} for rank "
        f"{method.rank}. In 24 and 60 steps SmolLM2 wants one rate from rank 1 to 64, in 100 `tiny` nearly so "
        "(docs/findings/2026-11-29-rates-elsewhere.md).",
    )


def optimizer_terms(method: FullFT | LoRA) -> Iterator[Term]:
    """Optimizers whose steps are of another size than AdamW's at the same rate; the others want its rate."""
    where = "on `tiny`: docs/findings/2026-11-30-lean-optimizers.md"
    if method.optimizer == "adafactor":
        yield Term(
            math.log(_ADAFACTOR),
            2 * math.log(_ADAFACTOR),
            "measured",
            "Adafactor",
            f"Adafactor's rate is relative to the size of a weight: x{_ADAFACTOR:g} ({where}); elsewhere it goes with "
            "how large weights are, and the interval is wider.",
        )
    if method.optimizer == "muon":
        yield Term(
            math.log(_MUON),
            math.log(_MUON),
            "measured",
            "Muon",
            f"Muon's step is scaled to be as large as AdamW's, and wants x{_MUON:g} of its rate ({where}).",
        )


def lora_terms(method: LoRA, shapes: Shapes) -> Iterator[Term]:
    """Targets, scale, rates of its own and starts that the sweep does not have."""
    targets = _groups(method, shapes)
    factor = _TARGET_FACTORS.get(targets)
    if factor is not None:
        yield Term(
            math.log(factor),
            math.log(factor),
            "measured",
            f"adapters on {targets[0]} alone",
            f"Adapters on {targets[0]} alone want x{factor:.2f} (Qwen3-4B at rank 256: 3.5e-4 on attention, 3.0e-4 on "
            "MLP, 2.5e-4 on both: docs/science.md 4).",
        )
    elif targets != ("attention", "mlp"):
        yield Term(
            0.0,
            math.log(1.4),
            "assumed",
            "these targets",
            "No measurement of these targets: the rate of all, with a wider interval (our assumption).",
        )
    scale = method.scale * method.rank / 32
    if not math.isclose(scale, 1.0):
        yield Term(
            -0.5 * math.log(scale),
            0.5 * abs(math.log(scale)),
            "measured",
            "the scale of the update",
            f"The update is scaled {scale:.3g} times as much as with alpha 32 over r: x{scale**-0.5:.2f}, the root of "
            "the inverse (docs/science.md 3.10 with one rate for A and B; so r^-1/4 for 1/sqrt(r) scaling, "
            "docs/science.md 5).",
        )
    rates = method.a_rate * method.b_rate
    if rates != 1:
        yield Term(
            -0.5 * math.log(rates),
            0.5 * abs(math.log(rates)),
            "measured",
            "rates of A and B",
            f"A learns at {method.a_rate:g} and B at {method.b_rate:g} times the rate: x{rates**-0.5:.2f}, so that the "
            "product of their rates stays (from docs/science.md 3.10; our assumption).",
        )
    yield from _start_terms(method)


def _groups(method: LoRA, shapes: Shapes) -> tuple[str, ...]:
    """What it adapts but for the unembedding: the groups named, or the one group of which a pattern takes matrices."""
    if method.targets[0].startswith("re:"):
        counts = lora_parameters(shapes, 1, method.targets, method.convention)
        found = {"mlp" if target == "experts" else target for target, count in counts.items() if count}
        found.discard("unembedding")
        return tuple(found) if len(found) == 1 else method.targets
    return tuple(target for target in method.targets if target != "unembedding")


def _start_terms(method: LoRA) -> Iterator[Term]:
    """What it starts from, the base as it is stored included, and the variants of how it adds."""
    if method.init_scale != 1:
        yield Term(
            0.0,
            0.5 * abs(math.log(method.init_scale)),
            "assumed",
            "the start of A",
            f"A starts {method.init_scale:g} times as large: A wants a rate as many times as large and B one as many "
            "times smaller (docs/science.md 3.10), so the rate stays and the interval is wider.",
        )
    if method.residual:
        factor = _INIT_FACTORS[method.init]
        yield Term(
            math.log(factor),
            math.log(3),
            "measured",
            f"the start {method.init}",
            f"{method.init} starts from the base's large weights and wants x{factor:g} (rank 16 on tiny, one base: "
            "docs/findings/2026-11-24-studies-full.md; docs/science.md 5 says smaller, too).",
        )
    if method.quantisation != "none":
        yield Term(
            0.0,
            math.log(1.2),
            "assumed",
            "a quantised base",
            f"Over a base in {method.quantisation.upper()} the rate of the base as it is: on tiny both were the same, "
            "known to a factor of 2 (docs/findings/2026-11-30-qlora.md); a wider interval elsewhere (our assumption).",
        )
    if method.dora or method.init == "orthogonal":
        yield Term(0.0, math.log(1.5), "assumed", "a variant", "A variant of LoRA that the sweep does not have.")
