"""One base, any number of policies, four verbs."""

from lowregret.engine.engine import Engine
from lowregret.engine.forward.path import ForwardPath
from lowregret.engine.optim.adamw import AdamParams
from lowregret.engine.optim.optimizer import StepParams
from lowregret.engine.optim.registry import step_params
from lowregret.engine.result import PassResult
from lowregret.engine.sampling.draw import Completion, SamplingParams

__all__ = [
    "AdamParams",
    "Completion",
    "Engine",
    "ForwardPath",
    "PassResult",
    "SamplingParams",
    "StepParams",
    "step_params",
]
