"""Losses as pure functions of a typed batch: sums over per-token weights that arrive ready.

Those of policy gradients (`importance_sampling`, `ppo_clip`, `cispo`, `dro`, and `kl_penalty` and `entropy_bonus`)
take three more columns of the batch, a number a position each: `advantages`, `sampler_logprobs` (log p of the token
under the policy that drew it) and, for the penalty, `reference_logprobs` (under the base). With r = p / p_sampler:

| loss | to be minimised | its gradient |
|---|---|---|
| importance_sampling | −Σ w · r · A | −Σ w · r · A · ∇log p |
| ppo_clip | −Σ w · min(r · A, clip(r) · A) | the same where the clip does not bind, else 0 |
| cispo | −Σ w · stop(clip(r)) · A · log p | the ratio is clipped, no token is left out |
| dro | −Σ w · (A · log p − β/2 · (log r)²) | −Σ w · (A − β · log r) · ∇log p |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Loss = Callable[..., Tensor]
"""(log-probabilities [positions], weights [positions], **the batch's other columns) → a scalar to be minimised."""
Losses = Loss | Mapping[str, Loss]
"""One for all policies of a pass, or each one's by its name."""


def loss_of(losses: Losses, policy: str) -> Loss:
    """That of one policy of a pass."""
    return losses[policy] if isinstance(losses, Mapping) else losses


def token_logprobs(
    logits: Float[Tensor, "positions vocabulary"], targets: Int[Tensor, " positions"]
) -> Float[Tensor, " positions"]:
    """log p(target) of each position, in float32, nats."""
    return -F.cross_entropy(logits.float(), targets, reduction="none")


def cross_entropy(logprobs: Float[Tensor, " positions"], weights: Float[Tensor, " positions"]) -> Float[Tensor, ""]:
    """−Σ weight · log p(target): the held-out metric of the study when the weights are 1 / tokens."""
    return -(weights * logprobs).sum()


def importance_sampling(
    logprobs: Float[Tensor, " positions"],
    weights: Float[Tensor, " positions"],
    *,
    advantages: Float[Tensor, " positions"],
    sampler_logprobs: Float[Tensor, " positions"],
) -> Float[Tensor, ""]:
    """−Σ weight · r · A: the policy gradient, corrected token by token for samples of a slightly other policy.

    On samples of the policy itself r is 1, and the gradient is that of REINFORCE: ∇r = r · ∇log p. (The loss of the
    post's RL runs, as its authors' cookbook has it: `importance_sampling`.)
    """
    return -(weights * (logprobs - sampler_logprobs).exp() * advantages).sum()


def ppo_clip(
    logprobs: Float[Tensor, " positions"],
    weights: Float[Tensor, " positions"],
    *,
    advantages: Float[Tensor, " positions"],
    sampler_logprobs: Float[Tensor, " positions"],
    low: float = 0.2,
    high: float = 0.2,
) -> Float[Tensor, ""]:
    """−Σ weight · min(r · A, clip(r, 1 − low, 1 + high) · A): PPO (arXiv 1707.06347, eq. 7)."""
    ratio = (logprobs - sampler_logprobs).exp()
    clipped = ratio.clamp(1 - low, 1 + high)
    return -(weights * torch.minimum(ratio * advantages, clipped * advantages)).sum()


def cispo(
    logprobs: Float[Tensor, " positions"],
    weights: Float[Tensor, " positions"],
    *,
    advantages: Float[Tensor, " positions"],
    sampler_logprobs: Float[Tensor, " positions"],
    low: float = 1.0,
    high: float = 4.0,
) -> Float[Tensor, ""]:
    """−Σ weight · stop(clip(r, 1 − low, 1 + high)) · A · log p: CISPO (arXiv 2506.13585, eq. 4).

    No lower bound as it stands: a ratio is above 0.
    """
    ratio = (logprobs.detach() - sampler_logprobs).exp().clamp(1 - low, 1 + high)
    return -(weights * ratio * advantages * logprobs).sum()


def dro(
    logprobs: Float[Tensor, " positions"],
    weights: Float[Tensor, " positions"],
    *,
    advantages: Float[Tensor, " positions"],
    sampler_logprobs: Float[Tensor, " positions"],
    beta: float = 0.05,
) -> Float[Tensor, ""]:
    """−Σ weight · (A · log p − β/2 · (log p − log p_sampler)²): the policy's part of DRO (arXiv 2405.19107, sec. 3),
    token by token, with an advantage in place of reward less value."""
    return -(weights * (advantages * logprobs - 0.5 * beta * (logprobs - sampler_logprobs).square())).sum()


def k3(
    logprobs: Float[Tensor, " positions"], reference_logprobs: Float[Tensor, " positions"]
) -> Float[Tensor, " positions"]:
    """q/p − 1 − log(q/p) of each sampled token: never negative, and its mean over p is KL(p ‖ q).

    Estimator k3 of Schulman, "Approximating KL Divergence" (2020); q is the reference.
    """
    difference = reference_logprobs - logprobs
    return difference.expm1() - difference


def kl_penalty(
    logprobs: Float[Tensor, " positions"],
    weights: Float[Tensor, " positions"],
    *,
    reference_logprobs: Float[Tensor, " positions"],
) -> Float[Tensor, ""]:
    """Σ weight · k3: to be added, times a coefficient, as GRPO does (arXiv 2402.03300, eq. 4)."""
    return (weights * k3(logprobs, reference_logprobs)).sum()


def entropy_bonus(
    logprobs: Float[Tensor, " positions"],
    weights: Float[Tensor, " positions"],
    *,
    sampler_logprobs: Float[Tensor, " positions"],
) -> Float[Tensor, ""]:
    """Minus the entropy of the next token, from the sampled tokens alone: to be added, times a coefficient.

    Its value estimates Σ weight · E[log p] = −Σ weight · H; its gradient, Σ weight · r · (1 + log p) · ∇log p, has that
    of −Σ weight · H as its mean over the tokens that the sampler could have drawn (H = −Σ p log p, ∇p = p · ∇log p).
    """
    return (weights * (logprobs - sampler_logprobs).exp() * logprobs).sum()


@dataclass(frozen=True)
class LossEntry:
    """A loss and what it takes of a batch beside log-probabilities and weights."""

    function: Loss
    columns: tuple[str, ...] = ()
    """Names of `Batch.columns`."""
    clips: tuple[str, ...] = ()
    """Its arguments that say how far a ratio may be from 1."""


_RATIO = ("advantages", "sampler_logprobs")
LOSSES: Mapping[str, LossEntry] = MappingProxyType(
    {
        "cross_entropy": LossEntry(cross_entropy),
        "importance_sampling": LossEntry(importance_sampling, _RATIO),
        "ppo_clip": LossEntry(ppo_clip, _RATIO, clips=("low", "high")),
        "cispo": LossEntry(cispo, _RATIO, clips=("high",)),
        "dro": LossEntry(dro, _RATIO),
        "kl_penalty": LossEntry(kl_penalty, ("reference_logprobs",)),
        "entropy_bonus": LossEntry(entropy_bonus, ("sampler_logprobs",)),
    }
)
"""All of them, by name; an objective chooses its estimator here.

tests/laws/test_losses.py runs over what is here, and finds what is not."""
