"""What the user asks for, as frozen pydantic models. Torch-free."""

from lowregret.spec.base import Spec, build, read_toml
from lowregret.spec.data import DataSpec
from lowregret.spec.method import FullFT, LoRA, Method
from lowregret.spec.rl import RL, SFT, Objective
from lowregret.spec.study import CompareSpec, GroupSpec
from lowregret.spec.trial import OptimizerSpec, TrainingSpec, TrainSpec, TrialSpec

__all__ = [
    "RL",
    "SFT",
    "CompareSpec",
    "DataSpec",
    "FullFT",
    "GroupSpec",
    "LoRA",
    "Method",
    "Objective",
    "OptimizerSpec",
    "Spec",
    "TrainSpec",
    "TrainingSpec",
    "TrialSpec",
    "build",
    "read_toml",
]
