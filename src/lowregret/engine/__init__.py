"""One base, any number of policies, four verbs."""

from lowregret.engine.engine import Engine, PassResult
from lowregret.engine.optimizer import AdamParams
from lowregret.engine.sampler import Completion, SamplingParams

__all__ = ["AdamParams", "Completion", "Engine", "PassResult", "SamplingParams"]
