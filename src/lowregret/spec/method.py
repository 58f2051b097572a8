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
_OPTIONS = ("alpha", "dropout")
"""What may be spelled `name=value` after the rank."""


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
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the inputs of A that is zeroed while training, drawn anew for every pass; the rest is scaled up by
    1 / (1 − dropout). The base's own path sees all of them."""
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
        parts = ["lora", str(self.rank)]
        parts += [f"alpha={_short(self.alpha)}"] if self.alpha != DEFAULT_ALPHA else []
        parts += [f"dropout={_short(self.dropout)}"] if self.dropout else []
        parts += ["+".join(self.targets)] if self.targets != DEFAULT_TARGETS else []
        return ":".join(parts)


def _short(number: float) -> str:
    """The fewest digits that read back as the same number."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def _compile(target: str) -> None:
    try:
        re.compile(target.removeprefix("re:"))
    except re.error as error:
        raise ValueError(f"the target regex {target!r} does not compile: {error}") from None


def parse_method(value: Any) -> Any:
    """`full`, `lora:RANK`, `lora:RANK:TARGETS`, `lora:RANK:alpha=A:dropout=P:TARGETS` into the fields of a method.

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
    while rest and not rest.startswith("re:"):
        option, _, following = rest.partition(":")
        key, equals, number = option.partition("=")
        if not equals:
            break
        if key not in _OPTIONS:
            raise ValueError(f"unknown option {key!r} of a LoRA. {did_you_mean(key, _OPTIONS)}")
        if key in fields:
            raise ValueError(f"{value!r} gives {key} twice")
        fields[key], rest = number, following
    if rest:
        fields["targets"] = rest
    return fields


Method = Annotated[FullFT | LoRA, Field(discriminator="kind"), BeforeValidator(parse_method)]
