"""The trackers there are, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lowregret.study.tracking.clients import MLflow, TensorBoard, Wandb
from lowregret.study.tracking.swanlab import SwanLab
from lowregret.study.tracking.tool import Tool
from lowregret.study.tracking.trackio import Trackio

TOOLS: Mapping[str, Callable[[str], Tool]] = {
    "mlflow": MLflow,
    "wandb": Wandb,
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "swanlab": SwanLab,
}
"""By the name on the command line, which is also the package's; each is made with where it writes to."""
