"""How a loss or a reward is written for people."""

from __future__ import annotations

from dataclasses import dataclass


def nats(value: float, sign: bool = False) -> str:
    """Four decimals, or two significant digits where four decimals would hide the number: 0.0229, 0.00048, 3.1e-05."""
    value += 0.0  # a zero has no sign: minus a reward of 0 is one
    if value != 0 and abs(value) < 5e-4:
        return f"{value:+.2g}" if sign else f"{value:.2g}"
    return f"{value:+.4f}" if sign else f"{value:.4f}"


@dataclass(frozen=True)
class Scale:
    """How the results of an objective are written: losses are small when good, rewards are kept as minus a loss."""

    noun: str
    """What a result is."""
    unit: str
    """Behind a difference of two results, with a space before it; "" for none."""
    per: str
    """Behind a result, likewise."""
    rewards: bool
    example: str
    """What one unit of held-out data is."""

    def score(self, loss: float) -> str:
        """A result as a number: the loss, or the reward."""
        return nats(-loss if self.rewards else loss)


LOSS = Scale("held-out loss", " nats", " nats per token", False, "example")
REWARD = Scale("held-out reward", "", "", True, "problem")


def scale_of(objective: str) -> Scale:
    """By the objective's kind, `sft` or `rl`."""
    return REWARD if objective == "rl" else LOSS


def percent(share: float) -> str:
    """`20%`, `0.2%`: a share to three digits, never rounded to none."""
    return f"{100 * share:.3g}%"
