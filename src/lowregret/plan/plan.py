"""The plan of one model, and its plain form for --json. Torch-free."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lowregret.data.facts import DataFacts
from lowregret.notebook_card import card
from lowregret.plan.advice.capacity import Information
from lowregret.plan.advice.choice import Advice
from lowregret.plan.advice.regret import ExpectedRegret
from lowregret.plan.formatting import money, rate, spelled
from lowregret.plan.placement import Placement
from lowregret.plan.rates.recommend import RatePrior
from lowregret.plan.resources.cost import StudyCost
from lowregret.plan.resources.hardware import Hardware
from lowregret.plan.resources.lean import LeanFit
from lowregret.plan.resources.memory import Memory
from lowregret.plan.shapes.weights import Shapes
from lowregret.plan.trust import Trust
from lowregret.quantities import byte_count, count, duration
from lowregret.spec import FullFT, LoRA
from lowregret.spec.plan import PlanSpec


@dataclass(frozen=True)
class Here:
    """What a method is trained as on the hardware at hand."""

    method: FullFT | LoRA
    checkpoint_activations: bool = False
    """Whether its activations have to be computed twice for that."""


@dataclass(frozen=True)
class MethodPlan:
    """What one method costs."""

    method: FullFT | LoRA
    trainable: int
    rate: RatePrior
    memory: Memory
    """At `micro_batch` rows."""
    micro_batch: int
    """Rows at once: the most that fit, or the whole batch where no hardware is named."""
    fits: bool | None
    """On the hardware; None when none is named."""
    remedy: str
    """What would make it fit, when it does not; empty when nothing tried does, or nothing is needed."""
    smallest: str
    """The least hardware of the catalogue that holds one row; empty when none does."""
    flops_per_token: float
    """2 × multiply-adds, forward and backward."""
    shipped_bytes: int
    seconds: float | None
    money: float | None
    """Dollars; None without a price. Where trials have devices of their own, that of one's."""
    placement: Placement
    """How the devices are used."""
    slices: int
    """Over how many of them an adapter's moments lie, each with a part; 1 where each has all, and of FullFT, whose
    weights lie in parts."""
    sent_bytes: float
    """That each device sends in a step; 0 without hardware."""
    waiting_share: float
    """Of a step, what communication adds to it."""
    lean: LeanFit | None = None
    """Of full fine-tuning that does not fit: one that does, with an optimizer of its own."""

    @property
    def here(self) -> Here | None:
        """As asked where it fits or no hardware is judged; else with activations computed twice, or as a leaner full
        fine-tuning; None when nothing tried fits on these devices."""
        if self.fits is not False:
            return Here(self.method)
        if self.remedy == "--checkpoint-activations":
            return Here(self.method, checkpoint_activations=True)
        return None if self.lean is None else Here(self.lean.method, self.lean.checkpoint_activations)

    @property
    def label(self) -> str:
        """A column's head."""
        if isinstance(self.method, FullFT):
            return "Full fine-tuning" if self.method.plain else f"Full fine-tuning, {spelled(self.method)}"
        base = "" if self.method.quantisation == "none" else f", {self.method.quantisation.upper()}"
        return f"LoRA, rank {self.method.rank}{base}"

    @property
    def placed(self) -> str:
        """How the devices are used, in sentences."""
        moments = f" Each keeps one of {self.slices} parts of the adapter's moments." if self.slices > 1 else ""
        return f"{self.label}: {self.placement.why}{moments}"


@dataclass(frozen=True)
class Plan:
    """Everything that `lowregret plan` says about one model."""

    shapes: Shapes
    request: PlanSpec
    facts: DataFacts | None
    information: Information | None
    advice: Advice
    hardware: Hardware | None
    hardware_assumed: bool
    """Nobody named it; advice does not depend on it."""
    lora: MethodPlan
    """The LoRA asked for, else the advised one, else the usual one."""
    full: MethodPlan
    batch_size: int
    steps: int
    length: int
    """Tokens of the longest example, which memory is planned for."""
    by_target: dict[str, int]
    """Parameters of that LoRA."""
    expected: ExpectedRegret | None
    """What that LoRA is expected to lose; None without data, and with rewards."""
    capacity: dict[str, Any]
    trust: Trust
    """How far each part may be trusted here, and which measurement would tell most."""
    price_given: bool
    study: StudyCost | None
    """What it would cost to measure the regret."""

    @property
    def asked(self) -> MethodPlan:
        """The method that was asked for; the advised one when none was."""
        return self.full if isinstance(self.request.method or self.advice.choice.method, FullFT) else self.lora

    def _repr_html_(self) -> str:
        """For a notebook: the advice, and LoRA beside full fine-tuning."""
        sides = self.lora, self.full
        rows = {
            "trainable parameters": [count(side.trainable) for side in sides],
            "learning rate": [rate(side.rate.value) for side in sides],
            "memory a device": [byte_count(side.memory.total) for side in sides],
            "time": ["" if side.seconds is None else duration(side.seconds) for side in sides],
            "cost": ["" if side.money is None else money(side.money) for side in sides],
        }
        machine = "" if self.hardware is None else f", on {self.hardware.name}"
        return card(
            f"{self.shapes.name}: {count(self.shapes.total)} parameters; batch {self.batch_size}, {self.steps:,} steps"
            f"{machine}",
            (line.removeprefix("plan: ") for line in self.advice.lines(())),
            ("", *(side.label for side in sides)),
            ((name, *values) for name, values in rows.items() if any(values)),
            self.advice.warnings,
        )

    def as_dict(self) -> dict[str, Any]:
        """The form of --json: plain values only, None for what is not known."""
        lora, asked = self.lora.method, self.asked
        assert isinstance(lora, LoRA)
        return {
            "model": self.shapes.name,
            "parameters": {"total": self.shapes.total, "active": self.shapes.active},
            "method": asked.method.name,
            "objective": self.request.objective,
            "lora": {"rank": lora.rank, "parameters": self.lora.trainable, "by_target": self.by_target},
            "learning_rate": _rate(asked.rate),
            "batch_size": self.batch_size,
            "steps": self.steps,
            "memory_bytes": _memory(asked.memory),
            "flops_per_token": asked.flops_per_token,
            "seconds": asked.seconds,
            "capacity": self.capacity,
            "advice": self.advice.as_dict(),
            "trust": self.trust.as_dict(),
            "hardware": self._hardware(),
            "sides": {"lora": _side(self.lora), "full": _side(self.full)},
            "study": None if self.study is None else asdict(self.study),
            "data": None if self.facts is None else asdict(self.facts),
        }

    def _hardware(self) -> dict[str, Any] | None:
        if self.hardware is None:
            return None
        return {**asdict(self.hardware), "assumed": self.hardware_assumed, "fits": self.asked.fits}


def _rate(rate: RatePrior) -> dict[str, Any]:
    return {"value": rate.value, "low": rate.low, "high": rate.high, "sources": list(rate.sources)}


def _memory(need: Memory) -> dict[str, int]:
    return {**asdict(need), "total": need.total}


def _side(side: MethodPlan) -> dict[str, Any]:
    return {
        "method": side.method.name,
        "trainable_parameters": side.trainable,
        "learning_rate": _rate(side.rate),
        "memory_bytes": _memory(side.memory),
        "micro_batch_size": side.micro_batch,
        "fits": side.fits,
        "flops_per_token": side.flops_per_token,
        "shipped_bytes": side.shipped_bytes,
        "lean": None if side.lean is None else side.lean.as_dict(),
        "seconds": side.seconds,
        "money": side.money,
        "placement": {
            "kind": side.placement.kind,
            "parallel": str(side.placement.mesh),
            "devices": side.placement.mesh.devices,
            "why": side.placement.why,
            "moment_parts": side.slices,
            "sent_bytes": side.sent_bytes,
            "waiting_share": side.waiting_share,
        },
    }
