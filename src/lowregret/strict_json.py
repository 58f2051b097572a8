"""JSON as its standard has it: the one place where a value becomes text."""

from __future__ import annotations

import json
import math
from typing import Any


def to_json(value: Any, **form: Any) -> str:
    """A plain value as JSON; null for numbers that it has no spelling for, every bit of the others.

    `form` is what json.dumps takes: `indent`, `ensure_ascii`, `separators`, `default`.
    """
    return json.dumps(finite(value), allow_nan=False, **form)


def finite(value: Any) -> Any:
    """A plain value with None in place of numbers that JSON has no spelling for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
