"""LoRA or full fine-tuning? Measure the regret, with an error bar.

    import lowregret

    plan = lowregret.make_plan("qwen3-8b", "builtin:arithmetic")
    verdict = lowregret.compare("tiny", "builtin:arithmetic", out="runs/first")
    record = lowregret.fine_tune("tiny", "builtin:arithmetic", method="lora:16", out="runs/second")
    forecast = lowregret.forecast_regret("tiny", "builtin:biographies", out="runs/third")
    claims = lowregret.run_study("rank", quick=True, out="runs/fourth")
    engine = lowregret.Engine(lowregret.load_base("tiny"))

A notebook and a terminal show what happens meanwhile, unless `quiet=True`; plans, verdicts and records show themselves
in a notebook.

Importing this package is cheap, and so is `make_plan`: torch is loaded by the first of the other names that is used.
No public name is that of a package: importing any module of a package would bind it over the function.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, filterwarnings

from lowregret.version import __version__ as __version__

__all__ = ["Engine", "compare", "fine_tune", "forecast_regret", "load_base", "make_plan", "run_study"]
_LIGHT = {"make_plan": "lowregret.plan.api"}

if TYPE_CHECKING:
    from lowregret.api import compare, fine_tune, forecast_regret, load_base, run_study
    from lowregret.engine import Engine
    from lowregret.plan.api import make_plan


def __getattr__(name: str) -> Any:
    if name in __all__:
        with catch_warnings():  # tqdm's, in a notebook without widgets: our progress needs none
            filterwarnings("ignore", message="IProgress not found")
            return getattr(import_module(_LIGHT.get(name, "lowregret.api")), name)
    raise AttributeError(f"module 'lowregret' has no attribute {name!r}")
