"""How a base is changed: full fine-tuning, or a LoRA of some rank on some of its weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from lowregret import limits
from lowregret.errors import did_you_mean
from lowregret.spec.base import Spec
from lowregret.spec.conventions import CONVENTIONS, DEFAULT_CONVENTION, Convention
from lowregret.spec.marks import TRAINING, Flag
from lowregret.spec.optimizer import LeanKind, LoRAKind

TARGET_GROUPS = ("attention", "mlp", "experts", "router", "unembedding")
LINEAR_TARGETS = ("attention", "mlp")
DEFAULT_TARGETS = (*LINEAR_TARGETS, "unembedding")
_SEVERAL = {"all": DEFAULT_TARGETS, "linear": LINEAR_TARGETS}
"""Words for several groups: all matrices, as in the post (SCIENCE 2), and those of the layers, PEFT's all-linear."""
DEFAULT_ALPHA = 32.0
MOST_RANK = 65536
Init = Literal["uniform", "pissa", "olora", "orthogonal"]
Scaling = Literal["alpha/r", "alpha/sqrt(r)"]
Quantisation = Literal["none", "nf4"]
"""Of a frozen base."""

_OPTIONS = {
    "alpha": "alpha",
    "dropout": "dropout",
    "init_scale": "init_scale",
    "a_rate": "a_rate",
    "lora+": "b_rate",
}
"""What may be spelled `name=value` after the rank, and the field that it sets."""
_WORDS: dict[str, tuple[str, Any]] = {
    **{init: ("init", init) for init in get_args(Init) if init != "uniform"},
    "rslora": ("scaling", "alpha/sqrt(r)"),
    "dora": ("dora", True),
    "nf4": ("quantisation", "nf4"),
    **{convention: ("convention", convention) for convention in CONVENTIONS if convention != DEFAULT_CONVENTION},
    **{kind: ("optimizer", kind) for kind in get_args(LoRAKind)},
}
"""What may be spelled as a word after the rank, and the field and value that it means."""
_FULL_WORDS: dict[str, tuple[str, Any]] = {
    **{kind: ("optimizer", kind) for kind in get_args(LeanKind)},
    "in-backward": ("in_backward", True),
}
"""The same after `full`."""


def _is_one(value: float) -> bool:
    return value == 1


def _is_default(value: str | bool) -> bool:
    return value in ("uniform", "alpha/r", False, DEFAULT_CONVENTION, "none")


def _is_none(value: str | None) -> bool:
    return value is None


def spell_targets(targets: Sequence[str]) -> str:
    """As few words as say the same: `all`, `linear`, or the groups joined with +."""
    return next((word for word, groups in _SEVERAL.items() if groups == tuple(targets)), "+".join(targets))


def parse_targets(value: str | Iterable[str]) -> tuple[str, ...]:
    """Groups in the order of TARGET_GROUPS, each once, or one `re:REGEX`; ValueError lists what there is."""
    asked = (value,) if isinstance(value, str) else tuple(value)
    if len(asked) == 1 and asked[0].startswith("re:"):
        _compile(asked[0])
        return asked
    groups: set[str] = set()
    for word in (piece for item in asked for piece in item.split("+")):
        if word in _WORDS:
            raise ValueError(f"{word!r} is a variant, no target: it comes before them, as in lora:16:{word}")
        if word not in _SEVERAL and word not in TARGET_GROUPS:
            raise ValueError(
                f"unknown target {word!r}. {did_you_mean(word, (*TARGET_GROUPS, *_SEVERAL))} "
                "Or give a regex over module names as re:REGEX, "
                f"or a variant before the targets: {', '.join(sorted(_WORDS))}"
            )
        groups.update(_SEVERAL.get(word, (word,)))
    if not groups:
        raise ValueError("no target named")
    return tuple(sorted(groups, key=TARGET_GROUPS.index))


def _targets(value: Any) -> Any:
    texts = isinstance(value, str) or (
        isinstance(value, list | tuple | set) and all(isinstance(item, str) for item in value)
    )
    return parse_targets(value) if texts else value  # else judged by the field's type


Targets = Annotated[tuple[str, ...], BeforeValidator(_targets)]
"""Which matrices carry a LoRA, as `LoRA.targets` says."""


class FullFT(Spec):
    """Every weight of the base trains.

    Fields at their defaults appear neither in a name nor in a record.
    """

    kind: Literal["full"] = "full"
    optimizer: LeanKind | None = Field(default=None, exclude_if=_is_none)
    """What steps the weights (docs/guides/lean.md): AdamW over float32 when not given. Another kind is a method of its
    own, with the hyper-parameters of the run's optimizer."""
    in_backward: bool = Field(default=False, exclude_if=_is_default)
    """Step each weight within the backward pass, as soon as its gradient is complete, so that there is never more than
    one. There is no norm of all gradients then, and a step is one pass: no `clip_norm`, no smaller
    `micro_batch_size`."""

    @property
    def name(self) -> str:
        """The method as the command line spells it: defaults are left out."""
        return ":".join(["full", *_words(self, _FULL_WORDS)])

    @property
    def plain(self) -> bool:
        """Whether it is AdamW over float32, after the backward pass: what others are compared with."""
        return self.optimizer is None and not self.in_backward

    @property
    def quantisation(self) -> Quantisation:
        """Of the base that trains: none, for four bits have no gradient."""
        return "none"


class LoRA(Spec):
    """W' = W + scale · (B·A − B₀·A₀) on each targeted weight matrix (SCIENCE 2).

    B₀·A₀ is the product at the start, which is zero unless `init` takes it from W. The fields after `targets` are the
    published variants (docs/guides/methods.md); at their defaults they appear neither in a name nor in a record.
    """

    kind: Literal["lora"] = "lora"
    rank: int = Field(ge=1, le=MOST_RANK)
    """Columns of B and rows of A."""
    alpha: Annotated[float, Flag(group=TRAINING, fills=True)] = Field(default=DEFAULT_ALPHA, gt=0, le=limits.FACTOR)
    """Of LoRA: the update is scaled by alpha / rank, or as `scaling` says."""
    dropout: Annotated[float, Flag(group=TRAINING, fills=True)] = Field(default=0.0, ge=0, lt=1)
    """Of LoRA: share of the inputs of A that is zeroed while training, drawn anew for every pass. The rest is scaled up
    by 1 / (1 − dropout), and the base's own path sees all of them."""
    targets: Annotated[Targets, Flag(group=TRAINING, fills=True)] = DEFAULT_TARGETS
    """Of LoRA: the matrices that carry it, as `attention`, `mlp`, `experts`, `router` and `unembedding` joined with +,
    or as `re:REGEX` over module names. `all` is attention, mlp and unembedding, `linear` is attention and mlp. `mlp`
    takes the experts along."""
    convention: Convention = Field(default=DEFAULT_CONVENTION, exclude_if=_is_default)
    """What the rank means for the experts of a mixture (docs/guides/moe.md)."""
    init: Init = Field(default="uniform", exclude_if=_is_default)
    """How A and B start. `uniform`: A uniform on ±1/√d_in, B zero. `pissa`: the largest `rank` singular values of W and
    their vectors, their root in A and in B (arXiv 2404.02948). `olora`: the first `rank` columns of Q and rows of R of
    W = QR (2406.01775). `orthogonal`: normal numbers whose product B·A is zero; an even rank is needed."""
    scaling: Scaling = Field(default="alpha/r", exclude_if=_is_default)
    """What multiplies B·A; `alpha/sqrt(r)` is rsLoRA (arXiv 2312.03732)."""
    init_scale: float = Field(default=1.0, gt=0, le=1e6, exclude_if=_is_one)
    """Multiplies the initial A of the init `uniform`: p of SCIENCE 3.10."""
    a_rate: float = Field(default=1.0, gt=0, le=1e6, exclude_if=_is_one)
    """Learning rate of A over that of the trial."""
    b_rate: float = Field(default=1.0, gt=0, le=1e6, exclude_if=_is_one)
    """Learning rate of B, and of DoRA's magnitudes, over that of the trial: LoRA+ (arXiv 2402.12354, there 16)."""
    dora: bool = Field(default=False, exclude_if=_is_default)
    """Train the norm of each row of the adapted W apart from its direction (arXiv 2402.09353)."""
    optimizer: LoRAKind | None = Field(default=None, exclude_if=_is_none)
    """What steps A and B (docs/guides/lean.md): AdamW when not given. Another kind is a method of its own, with the
    hyper-parameters of the run's optimizer."""
    quantisation: Quantisation = Field(default="none", exclude_if=_is_default)
    """Of the frozen base. `nf4`: the matrices of its layers are in 4 bits with double quantisation, as in QLoRA (arXiv
    2305.14314), which takes 0.516 bytes a parameter; needs `lowregret[nf4]`."""

    @model_validator(mode="after")
    def _fits_together(self) -> LoRA:
        if self.init == "orthogonal" and self.rank % 2:
            raise ValueError(f"the init orthogonal needs an even rank, not {self.rank}")
        if self.init != "uniform" and self.init_scale != 1:
            raise ValueError(f"init_scale is of use with the init uniform only, not with {self.init}")
        return self

    @property
    def scale(self) -> float:
        """What multiplies B·A."""
        return self.scale_of(self.rank)

    def scale_of(self, rank: int) -> float:
        """What multiplies B·A of another rank: that of one expert (docs/guides/moe.md)."""
        return self.alpha / (rank if self.scaling == "alpha/r" else math.sqrt(rank))

    @property
    def residual(self) -> bool:
        """Whether A and B start as a part of W, so that their first product is taken off again."""
        return self.init in ("pissa", "olora")

    @property
    def name(self) -> str:
        """The method as the command line spells it: defaults are left out."""
        parts = ["lora", str(self.rank)]
        parts += [f"alpha={short(self.alpha)}"] if self.alpha != DEFAULT_ALPHA else []
        parts += [f"dropout={short(self.dropout)}"] if self.dropout else []
        rates = {"init_scale": self.init_scale, "a_rate": self.a_rate, "lora+": self.b_rate}
        parts += [f"{key}={short(value)}" for key, value in rates.items() if value != 1]
        parts += _words(self, _WORDS)
        parts += [spell_targets(self.targets)] if self.targets != DEFAULT_TARGETS else []
        return ":".join(parts)


def _words(method: Spec, words: Mapping[str, tuple[str, Any]]) -> list[str]:
    return [word for word, (field, value) in words.items() if getattr(method, field) == value]


def spellings(kind: type[LoRA] | type[FullFT] = LoRA) -> dict[str, str]:
    """Field of a method → how `lora:RANK:…` or `full:…` spells it."""
    found: dict[str, list[str]] = {}
    words = _FULL_WORDS
    if kind is LoRA:
        words, found["rank"] = _WORDS, ["lora:RANK"]
        for option, field in _OPTIONS.items():
            found.setdefault(field, []).append(f"{option}=VALUE")
        found["targets"] = ["the last part"]
    for word, (field, _) in words.items():
        found.setdefault(field, []).append(word)
    return {name: ", ".join(found[name]) for name in kind.model_fields if name in found}


def short(number: float) -> str:
    """The fewest digits that read back as the same number."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def _compile(target: str) -> None:
    try:
        re.compile(target.removeprefix("re:"))
    except re.error as error:
        raise ValueError(f"the target regex {target!r} does not compile: {error}") from None


def parse_method(value: Any) -> Any:
    """`full`, then a kind of optimizer and `in-backward`; or `lora:RANK`, then any of `alpha=A`, `dropout=P`,
    `init_scale=P`, `a_rate=R`, `lora+=R`, `pissa`, `olora`, `orthogonal`, `rslora`, `dora`, `nf4`, a convention
    for experts, and a kind of optimizer, then the targets; all after a colon, into the fields of a method.

    Anything that is not a string is passed through for pydantic to judge.
    """
    if not isinstance(value, str):
        return value
    if value.startswith("full:") and "nf4" in value.split(":"):
        raise ValueError(f"{value!r}: a base in 4 bits cannot be fully fine-tuned. Use full, or lora:RANK:nf4")
    head, _, rest = value.partition(":")
    if head == "full":
        return _full(value)
    rank, _, rest = rest.partition(":")
    if head != "lora" or not rank.isdecimal():
        raise ValueError(f"unknown method {value!r}: use full, lora:RANK or lora:RANK:TARGETS, such as lora:16:mlp")
    fields: dict[str, Any] = {"kind": "lora", "rank": int(rank)}
    while rest and not rest.startswith("re:"):
        option, _, following = rest.partition(":")
        found = _option(option)
        if found is None:
            break
        if found[0] in fields:
            raise ValueError(f"{value!r} gives {found[0]} twice")
        fields[found[0]], rest = found[1], following
    if rest:
        fields["targets"] = rest
    return fields


def _full(value: str) -> dict[str, Any]:
    """The fields of a FullFT, of its spelling."""
    fields: dict[str, Any] = {"kind": "full"}
    for word in value.split(":")[1:]:
        if word not in _FULL_WORDS:
            raise ValueError(f"unknown option {word!r} of full fine-tuning. {did_you_mean(word, _FULL_WORDS)}")
        field, found = _FULL_WORDS[word]
        if field in fields:
            raise ValueError(f"{value!r} gives {field} twice")
        fields[field] = found
    return fields


def _option(option: str) -> tuple[str, Any] | None:
    """The field and value that a part of a method's spelling sets; None when it is no option."""
    if option in _WORDS:
        return _WORDS[option]
    if option in _FULL_WORDS:
        raise ValueError(
            f"{option!r} is for full fine-tuning: a LoRA's weights are float32, and step after the backward pass. "
            f"Use one of {', '.join(get_args(LoRAKind))}, or leave it out"
        )
    key, equals, number = option.partition("=")
    if not equals:
        return None
    if key not in _OPTIONS:
        raise ValueError(f"unknown option {key!r} of a LoRA. {did_you_mean(key, _OPTIONS)}")
    return _OPTIONS[key], number


Method = Annotated[
    FullFT | LoRA,
    Field(discriminator="kind"),
    BeforeValidator(parse_method, json_schema_input_type=str | FullFT | LoRA),
]
