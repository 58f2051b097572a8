"""How a base is changed: full fine-tuning, or a LoRA of some rank on some of its weights."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from lowregret.errors import did_you_mean
from lowregret.spec.base import Spec

TARGET_GROUPS = ("attention", "mlp", "unembedding")
DEFAULT_TARGETS = ("attention", "mlp")
DEFAULT_ALPHA = 32.0


class FullFT(Spec):
    """Every weight of the base trains."""

    kind: Literal["full"] = "full"

    @property
    def name(self) -> str:
        """The method as the command line spells it."""
        return "full"


class LoRA(Spec):
    """W' = W + (alpha / rank) · B·A on each targeted weight matrix (SCIENCE.md 2)."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(ge=1, le=65536)
    """Columns of B and rows of A."""
    alpha: float = Field(default=DEFAULT_ALPHA, gt=0)
    """The update is scaled by alpha / rank."""
    targets: tuple[str, ...] = DEFAULT_TARGETS
    """Groups (`attention`, `mlp`, `unembedding`; `all` is attention and mlp), or one regex `re:…` over module names."""

    @field_validator("targets", mode="before")
    @classmethod
    def _check_targets(cls, value: Any) -> tuple[str, ...]:
        asked = (value,) if isinstance(value, str) else tuple(value)
        if len(asked) == 1 and asked[0].startswith("re:"):
            _compile(asked[0])
            return asked
        groups: list[str] = []
        for part in (piece for item in asked for piece in item.split("+")):
            expanded = DEFAULT_TARGETS if part == "all" else (part,)
            for group in expanded:
                if group not in TARGET_GROUPS:
                    raise ValueError(
                        f"unknown target {group!r}. {did_you_mean(group, (*TARGET_GROUPS, 'all'))} "
                        "Or give a regex over module names as re:REGEX"
                    )
                if group not in groups:
                    groups.append(group)
        if not groups:
            raise ValueError("no target named")
        return tuple(sorted(groups, key=TARGET_GROUPS.index))

    @property
    def name(self) -> str:
        """The method as the command line spells it: defaults are left out."""
        targets = "" if self.targets == DEFAULT_TARGETS else ":" + "+".join(self.targets)
        alpha = "" if self.alpha == DEFAULT_ALPHA else f":alpha={self.alpha:g}"
        return f"lora:{self.rank}{alpha}{targets}"


def _compile(target: str) -> None:
    try:
        re.compile(target.removeprefix("re:"))
    except re.error as error:
        raise ValueError(f"the target regex {target!r} does not compile: {error}") from None


def parse_method(value: Any) -> Any:
    """`full`, `lora:RANK`, `lora:RANK:TARGETS`, `lora:RANK:alpha=A:TARGETS` into the fields of a method.

    Anything that is not a string is passed through for pydantic to judge.
    """
    if not isinstance(value, str):
        return value
    if value == "full":
        return {"kind": "full"}
    head, _, rest = value.partition(":")
    rank, _, rest = rest.partition(":")
    if head != "lora" or not rank.isdecimal():
        raise ValueError(f"unknown method {value!r}: use full, lora:RANK or lora:RANK:TARGETS, such as lora:16:mlp")
    fields: dict[str, Any] = {"kind": "lora", "rank": int(rank)}
    if rest.startswith("alpha="):
        alpha, _, rest = rest.removeprefix("alpha=").partition(":")
        fields["alpha"] = alpha
    if rest:
        fields["targets"] = rest
    return fields


Method = Annotated[FullFT | LoRA, Field(discriminator="kind"), BeforeValidator(parse_method)]
