"""The training loop, its checkpoints and its records.

Importing any module of this package binds the package to the name `lowregret.train`, over the function that the public
interface has there. So the package, when called, is that function.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """`lowregret.api.train`, by name: the layers above are not this package's to import."""
        return import_module("lowregret.api").train(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
