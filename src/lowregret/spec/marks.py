"""What a field may say about itself beyond its type, default, bounds and docstring: its unit, and how its flag differs.

They stand in the field's `Annotated[…]`, pydantic ignores them while validating, and `spec.keys` reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

TRAINING, MACHINE = "Training", "Machine"


@dataclass(frozen=True)
class Unit:
    """What the number counts, such as `tokens` or `seconds`; the published schema has it, too."""

    name: str

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        return {**handler(core_schema), "unit": self.name}


@dataclass(frozen=True)
class Flag:
    """How the flag of a field differs from what its key and its type say."""

    name: str = ""
    """Instead of the key, with underscores."""
    group: str = ""
    """The panel of the help; the table's own when not given."""
    reads: Literal["", "int"] = ""
    """What is written behind it, where the field takes more than a command line can spell."""
    fills: bool = False
    """Of a LoRA: the flag fills every LoRA that leaves the field open."""
    whole: bool = False
    """Of a method: it is spelled whole, and no other flag fills it."""


@dataclass(frozen=True)
class CodeOnly:
    """No key and no flag: Python gives the field, such as what a run knows of itself."""
