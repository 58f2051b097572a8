"""What is trained and compared: a whole `lowregret compare`, or one group of trials of a study of the post."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from lowregret import limits
from lowregret.spec.marks import Unit
from lowregret.spec.method import FullFT, LoRA, Method
from lowregret.spec.rl import objective_kind
from lowregret.spec.trial import Count, ShownSpec, TrainingSpec, require_rates_apart


def _fraction(value: Any) -> Any:
    """`"0.5%"` is 0.005; numbers pass."""
    if isinstance(value, str):
        text = value.strip()
        try:
            return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            raise ValueError("give a percentage such as 0.5% or a fraction such as 0.005") from None
    return value


def _fraction_or_off(value: Any) -> Any:
    return None if value == "off" else _fraction(value)


RL_TOLERANCE = 0.02
"""Of reward: about what 256 held-out problems and three seeds can tell apart near a pass rate of 0.95."""
PositiveRate = Annotated[float, Field(gt=0, lt=1e3)]


class CompareSpec(ShownSpec):
    """`lowregret compare`: LoRA against full fine-tuning, each at its own bracketed learning rate."""

    methods: tuple[Method, ...] = (LoRA(rank=16), FullFT())
    """What is compared: `full`, `lora:RANK` and `lora:RANK:TARGETS`, separated by commas."""
    learning_rates: tuple[PositiveRate, ...] | Literal["auto"] = "auto"
    """`auto` searches from the prior, widens until bracketed, then refines; a list is tried as it is."""
    seeds: Annotated[int, Unit("trials")] = Field(default=3, ge=1, le=limits.REPEATS)
    """Trials at each method's best learning rate; the search itself uses seed 0."""
    tolerance: Annotated[float, BeforeValidator(_fraction, json_schema_input_type=float | str), Field(gt=0, lt=1)] = (
        0.05
    )
    """Regret is low when its whole interval lies under this share of what FullFT learns, the base's loss minus
    FullFT's: 5 %, the ratio at which *Bits That Count* calls a rank to lose. With rewards, under so much reward, 0.02
    when not given: two points of a pass rate. A percentage such as "5%" is a share, too."""
    tolerance_of: Literal["learned", "loss"] = "learned"
    """What the tolerance is a share of: what FullFT `learned`, or its `loss`, as it was before 0.3."""
    prune: Annotated[
        Annotated[float, Field(gt=0, le=limits.FACTOR)] | None,
        BeforeValidator(_fraction_or_off, json_schema_input_type=float | str | None),
    ] = 0.25
    """Stop a search trial whose mid-run loss is by more than this share above the best one's at the same step, or
    `off`; with rewards, so much reward below it, and off when not given. Rewards rise along an S, so that a slow rate
    which is far behind in the middle of a run may end level, and a few hundred graded samples are a noisy measure."""

    until_decided: bool = Field(default=False, exclude_if=lambda value: value is False)
    """Stop when the verdict is settled: pilots of a fifth of a trial first, then only the trials that can change the
    decision between LoRA and full fine-tuning, and seeds, up to `seeds`, one at a time. The verdict's error over all
    these looks is that of one. Nothing is pruned meanwhile, and what was left out is not measured; without it the same
    command goes on and measures all."""

    @model_validator(mode="before")
    @classmethod
    def _of_rewards(cls, values: Any) -> Any:
        """The defaults of an objective whose results are rewards."""
        rewarded = objective_kind(values) == "rl"
        return {"tolerance": RL_TOLERANCE, "prune": None, **values} if rewarded else values

    @model_validator(mode="after")
    def _comparable(self) -> CompareSpec:
        names = [method.name for method in self.methods]
        if len(set(names)) < len(names):
            raise ValueError(f"methods: {', '.join(names)} names a method twice")
        if not any(isinstance(m, FullFT) for m in self.methods) or not any(isinstance(m, LoRA) for m in self.methods):
            raise ValueError(
                f"methods: {', '.join(names)} has nothing to compare: regret needs `full` and at least one lora:RANK"
            )
        if self.learning_rates != "auto" and len(set(self.learning_rates)) < len(self.learning_rates):
            raise ValueError("learning_rates: a rate is named twice")
        if self.learning_rates != "auto":
            require_rates_apart(self.learning_rates)
        return self

    @model_validator(mode="after")
    def _decidable(self) -> CompareSpec:
        if self.until_decided and self.objective.kind == "rl":
            raise ValueError("until_decided: rewards rise along an S, and pilots say nothing of them: leave it out")
        if self.until_decided and self.seeds < 2:
            raise ValueError("until_decided: no verdict is settled by one seed: give seeds 2 or more")
        return self

    @property
    def asked(self) -> tuple[Method, ...]:
        return self.methods

    @property
    def reference(self) -> FullFT:
        """The full fine-tuning that regrets are measured against: AdamW over float32 if that is among them, else the
        first. Another optimizer changes what full fine-tuning comes to, and has a regret of its own."""
        fulls = [method for method in self.methods if isinstance(method, FullFT)]
        return next((method for method in fulls if method.plain), fulls[0])


class GroupSpec(TrainingSpec):
    """Trials of a study that share base, data, batch and steps: LoRAs, which train in packs, or FullFT alone.

    Best learning rates are searched for on one lattice, `1e-3 · 2^k`, whatever the base: so trials of a study that is
    extended later fit those that are there (`study.lattice` has the rules).
    """

    condition: str
    """What distinguishes its data, batch or base within the study, such as `size-128`."""
    methods: tuple[Method, ...]
    learning_rates: tuple[PositiveRate, ...] | Literal["search"] = "search"
    """search: bracket each method's best rate. A list: exactly these for every method, with every seed."""
    bracket_at: tuple[Count, ...] = ()
    """Steps at which the best rate must be bracketed; at the last when none is given."""
    seeds: int = Field(default=3, ge=1, le=limits.REPEATS)
    """Trials at each method's best learning rate; the search itself uses seed 0."""
    seeds_at: Literal["best", "bracket", "range"] = "best"
    """Whether the other seeds run at the best rate only; also at both of its neighbours, so that a fit through the
    three has an interval; or at all rates up to the nearest on each side that is not good (`until_gain`)."""
    until_gain: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Once bracketed, the search goes on outwards until on each side a trial falls short of this share of what the best
    one has gained since step 0."""
    prune: Annotated[float, Field(gt=0, le=limits.FACTOR)] | None = 0.25
    """Stop a search trial in the second half of its run when its held-out loss exceeds that of the method's best trial
    at the same step by more than this share."""
    start_from: str | None = None
    """The condition whose best rates this group's search starts from; the prior when None."""
    forgetting: str | None = None
    """Held-out data, of what the base was trained on, on which every finished trial is measured as well."""

    @model_validator(mode="after")
    def _rates_apart(self) -> GroupSpec:
        if self.learning_rates != "search":
            require_rates_apart(self.learning_rates)
        return self

    @model_validator(mode="after")
    def _range_has_ends(self) -> GroupSpec:
        if self.seeds_at == "range" and self.until_gain is None:
            raise ValueError("seeds_at: the range of good rates has no ends without until_gain")
        return self

    @property
    def asked(self) -> tuple[Method, ...]:
        return self.methods

    @property
    def key(self) -> str:
        """Its folder's name."""
        return f"{self.condition}.{'full' if isinstance(self.methods[0], FullFT) else 'lora'}"
