"""What the user asks for, as frozen pydantic models. Torch-free."""

from lowregret.spec.base import Frozen, Spec, build, read_toml
from lowregret.spec.data import DataSpec
from lowregret.spec.method import FullFT, LoRA, Method
from lowregret.spec.optimizer import AdamW, Optimizer, OptimizerSpec
from lowregret.spec.rl import RL, SFT, Objective
from lowregret.spec.study import CompareSpec, GroupSpec
from lowregret.spec.trial import ShownSpec, TrainingSpec, TrainSpec, TrialSpec

__all__ = [
    "RL",
    "SFT",
    "AdamW",
    "CompareSpec",
    "DataSpec",
    "Frozen",
    "FullFT",
    "GroupSpec",
    "LoRA",
    "Method",
    "Objective",
    "Optimizer",
    "OptimizerSpec",
    "ShownSpec",
    "Spec",
    "TrainSpec",
    "TrainingSpec",
    "TrialSpec",
    "build",
    "read_toml",
]
