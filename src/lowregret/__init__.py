"""LoRA or full fine-tuning? Measure the regret, with an error bar.

    import lowregret

    verdict = lowregret.compare("tiny", "builtin:arithmetic", out="runs/first")
    record = lowregret.train("tiny", "builtin:arithmetic", method="lora:16", out="runs/second")
    engine = lowregret.Engine(lowregret.load_base("tiny"))

Importing this package is cheap: torch is loaded by the first of these names that is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Engine", "compare", "load_base", "train"]

if TYPE_CHECKING:
    from lowregret.api import compare, load_base, train
    from lowregret.engine import Engine


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("lowregret.api"), name)
    raise AttributeError(f"module 'lowregret' has no attribute {name!r}")
