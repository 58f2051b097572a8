"""How much the data have to say, in bits, and how much a LoRA of some rank can hold. Torch-free.

A dataset's description length is bounded by its total first-epoch log loss, about one bit per token of text, and about
two bits per parameter can be stored (SCIENCE 3.8). What a training *learns* is less: the excess description length
EDL = Σ first-epoch pre-update loss − n · final test loss (SCIENCE 5), or the bits of the facts, where they are known.
What a LoRA loses at so many bits a parameter is in `plan.advice.regret`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lowregret.analysis.edl import ExcessDescriptionLength, Regime
from lowregret.errors import SpecError
from lowregret.plan.shapes.adapters import lora_parameters
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec.conventions import Convention

PRIOR_BITS_PER_TOKEN = 1.0
TEACH_BITS = (0.7, 2.2)
"""Per parameter: where a rank began to lose, lowest and highest case measured (SCIENCE 5)."""
STORED_BITS = 2.0
"""Per parameter, after long training (SCIENCE 3.8)."""
ELICIT_BITS = (0.02, 0.05)
"""Per parameter (SCIENCE 5)."""
MAX_RANK = 65536
Unit = Literal["facts", "edl", "loss", "tokens", "rewards"]
"""What bits are of: facts of known entropy; a pilot's excess description length; the base's own loss; tokens at a bit
each; rewards."""


@dataclass(frozen=True)
class Information:
    """What the data have to say."""

    bits: float
    """An upper bound on what can be learned, unless `edl_bits` says it better."""
    bits_per_token: float | None
    """Per supervised token; None for RL."""
    source: str
    """Where `bits` come from, as a phrase."""
    measured: bool = False
    """By this base's loss on these data, instead of a prior."""
    edl_bits: float | None = None
    """Excess description length at the size of these data; None without a pilot."""
    regime: Regime = "unknown"
    bits_per_episode: float | None = None
    """RL only."""
    informative_groups: float | None = None
    """RL only: share of groups whose rewards are not all equal."""

    fact_bits: float | None = None
    """Of facts that no base has met, where whoever made the data says so."""
    regime_note: str = ""
    """Why a pilot left the regime unknown; empty without one, or when it is known."""
    pilot_doubt: str = ""
    """Why a pilot may say nothing of these data; a phrase, or empty."""

    @property
    def unit(self) -> Unit:
        """What `to_hold` is bits of."""
        if self.bits_per_token is None:
            return "rewards"
        if self.fact_bits is not None:
            return "facts"
        if self.edl_bits is not None:
            return "edl"
        return "loss" if self.measured else "tokens"

    @property
    def to_hold(self) -> float:
        """Bits that the adapter must have room for."""
        if self.fact_bits is not None:
            return self.fact_bits
        return self.bits if self.edl_bits is None else self.edl_bits

    def with_facts(self, fact_bits: float | None) -> Information:
        """The same data, known to tell facts of so many bits, which is teaching; unchanged for None."""
        return self if fact_bits is None else replace(self, fact_bits=fact_bits, regime="teach", regime_note="")


def sft_information(supervised_tokens: int, bits_per_token: float | None = None) -> Information:
    """Description length of supervised data: a bit per token, or the base's own loss where it was measured."""
    rate = PRIOR_BITS_PER_TOKEN if bits_per_token is None else bits_per_token
    said = "1 bit a token (SCIENCE 3.8)" if bits_per_token is None else "the base's loss, measured"
    return Information(supervised_tokens * rate, rate, said, measured=bits_per_token is not None)


def binary_entropy(share: float) -> float:
    """H₂ in bits."""
    if not 0 <= share <= 1:
        raise SpecError(f"a pass rate is a share from 0 to 1, not {share:g}.")
    return -sum(p * math.log2(p) for p in (share, 1 - share) if p > 0)


def group_bits(group_size: int, pass_rate: float) -> tuple[float, float]:
    """Bits that the rewards of one group of samples can teach, and the chance that a group teaches anything.

    The entropy of its binary rewards, at most H₂(p) an episode (SCIENCE 5), with the two outcomes in which all are
    equal counted as one: both give an advantage, and so a gradient, of zero. [calc]
    """
    if group_size < 1:
        raise SpecError(f"--group-size {group_size}: a group has at least one sample; 2 or more can teach something.")
    all_right, all_wrong = pass_rate**group_size, (1 - pass_rate) ** group_size
    silent = min(all_right + all_wrong, 1.0)
    if group_size == 1 or silent >= 1:
        return 0.0, 0.0
    entropy = group_size * binary_entropy(pass_rate)
    apart = -sum(p * math.log2(p) for p in (all_right, all_wrong) if p > 0)
    joined = -silent * math.log2(silent) if silent > 0 else 0.0
    return entropy - apart + joined, 1 - silent


def rl_information(episodes: int, group_size: int, pass_rate: float) -> Information:
    """What policy gradients can learn from `episodes` samples with a reward of 0 or 1, drawn in groups.

    Problems differ in their pass rates, and entropy is concave: their mean gives an upper bound.
    """
    bits, informative = group_bits(group_size, pass_rate)
    per_episode = bits / group_size
    return Information(
        episodes * per_episode,
        None,
        f"{per_episode:.2g} bit an episode: pass rate {pass_rate:g}, groups of {group_size} (SCIENCE 5)",
        bits_per_episode=per_episode,
        informative_groups=informative,
    )


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, and what it learned."""

    found: ExcessDescriptionLength
    source: str
    """What it is called."""
    doubt: str = ""
    """Why it may say nothing of the data that are planned for; a phrase, or empty."""


def of_finished_run(supervised_tokens: int, pilot: FinishedRun) -> Information:
    """What the data have to say by a pilot on them: its EDL per token, at the size of the data."""
    found = pilot.found
    per_token = max(found.bits_per_token, 0.0)
    return Information(
        supervised_tokens * found.first_epoch_bits_per_token,
        found.first_epoch_bits_per_token,
        pilot.source,
        measured=True,
        edl_bits=supervised_tokens * per_token,
        regime=found.regime,
        regime_note=found.note,
        pilot_doubt=pilot.doubt,
    )


def rank_for(
    shapes: Shapes,
    bits: float,
    bits_per_parameter: float,
    targets: Sequence[str] | Literal["all"] = "all",
    convention: Convention = "per-active",
) -> int | None:
    """The least power of two that holds `bits` as a rank: from there on capacity does not bind. None above 65,536."""
    rank = 1
    while rank <= MAX_RANK:
        if sum(lora_parameters(shapes, rank, targets, convention).values()) * bits_per_parameter >= bits:
            return rank
        rank *= 2
    return None
