"""Bits that weights can store, and those that a trained policy has stored (SCIENCE 3.8). Torch-free."""

from __future__ import annotations

import math

from lowregret.analysis.condition import Trial

BITS_PER_PARAMETER = 2.0
"""What a parameter can store."""


def stored_bits(trial: Trial, fact_bits: float) -> float:
    """Bits of the facts that a trained policy knows: all of them, minus what its loss on asking for each one leaves.

    The held-out set asks for every fact once, in a wording that was not trained on; a policy that has stored nothing
    and says so evenly loses exactly the facts' bits.
    """
    return fact_bits - math.fsum(trial.examples().nll_sums) / math.log(2)
