"""Where a search for the learning rate starts, before anything is measured. Torch-free."""

from __future__ import annotations

import math

from lowregret.spec import FullFT, LoRA

_BASE_RATE = 5e-5
_REFERENCE_WIDTH = 2000
_WIDTH_POWER = {"llama": 0.781, "qwen": 0.0775}
_SHORT_RUN_STEPS, _SHORT_RUN_RATIO = 100, 15.0
_LONG_RUN_STEPS, _LONG_RUN_RATIO = 1000, 10.0


def prior_learning_rate(method: FullFT | LoRA, hidden_size: int, model_type: str, steps: int) -> float:
    """The rate at which to start looking.

    5e-5 · M · (2000 / hidden)^p with M = 1 for FullFT and 10 for LoRA, p = 0.781 for Llama and 0.0775 for Qwen
    (SCIENCE.md 3.11); for other families the mean of the two powers. For LoRA, M is 15 up to 100 steps (3.3) and
    falls to 10 at 1,000 steps, log-linearly: where between the two it falls is our assumption.
    """
    powers = [power for family, power in _WIDTH_POWER.items() if family in model_type.lower()]
    power = powers[0] if powers else sum(_WIDTH_POWER.values()) / len(_WIDTH_POWER)
    width: float = (_REFERENCE_WIDTH / hidden_size) ** power
    return _BASE_RATE * width * (_lora_ratio(steps) if isinstance(method, LoRA) else 1.0)


def _lora_ratio(steps: int) -> float:
    span = math.log(_LONG_RUN_STEPS / _SHORT_RUN_STEPS)
    position = min(max(math.log(steps / _SHORT_RUN_STEPS) / span, 0.0), 1.0)
    return _SHORT_RUN_RATIO + position * (_LONG_RUN_RATIO - _SHORT_RUN_RATIO)
