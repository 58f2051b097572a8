"""How good the base was before any training, from a folder's records. Torch-free."""

from __future__ import annotations

from pathlib import Path

from lowregret.errors import RecordsError
from lowregret.runs.atomic import read_json
from lowregret.runs.metrics import read_metrics


def start_loss(folder: Path) -> float | None:
    """The base's held-out nats per supervised token, or minus its held-out reward; None when nobody measured it.

    With reinforcement learning every trial is evaluated before its first step, by the same random numbers: LoRAs and
    FullFT start as the base, so the first trial's evaluation is the base's. RecordsError names a damaged base.json.
    """
    path = folder / "base.json"
    if path.exists():
        found = read_json(path)
        nll = found.get("test_nll") if isinstance(found, dict) else None
        if isinstance(nll, float):
            return nll
        if not isinstance(found, dict) or found.get("objective") != "rl":
            raise RecordsError(f"{path}: holds no finite 'test_nll'. Delete the file and run the same command again.")
    for curve in sorted(folder.glob("trials/*/metrics.jsonl")):
        first = next(iter(read_metrics(curve)), None)
        if first is not None and first.step == 0 and first.test_loss is not None:
            return first.test_loss
    return None
