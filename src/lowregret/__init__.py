"""LoRA or full fine-tuning? Measure the regret, with an error bar.

    import lowregret

    plan = lowregret.plan("qwen3-8b", "builtin:arithmetic")
    verdict = lowregret.compare("tiny", "builtin:arithmetic", out="runs/first")
    record = lowregret.train("tiny", "builtin:arithmetic", method="lora:16", out="runs/second")
    engine = lowregret.Engine(lowregret.load_base("tiny"))

Importing this package is cheap, and so is `plan`: torch is loaded by the first of the other names that is used.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Engine", "compare", "load_base", "plan", "train"]
_LIGHT = {"plan": "lowregret.planner"}

if TYPE_CHECKING:
    from lowregret.api import compare, load_base, train
    from lowregret.engine import Engine
    from lowregret.planner import plan


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(_LIGHT.get(name, "lowregret.api")), name)
    raise AttributeError(f"module 'lowregret' has no attribute {name!r}")


class CallablePackage(ModuleType):
    """A package that bears the name of a public function, `lowregret.train` or `lowregret.plan`.

    Importing any module of it binds the package to that name, over the function. So the package, when called, is that
    function, found by name: the layers above are not the package's to import.
    """

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """The public function."""
        return __getattr__(self.__name__.rpartition(".")[2])(*arguments, **options)
