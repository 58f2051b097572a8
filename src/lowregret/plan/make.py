"""From shapes, data and wishes to a plan: who counts what, in order. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lowregret.plan.adapters import adapter_bytes
from lowregret.plan.advisor import Advised, advise
from lowregret.plan.capacity import ELICIT_BITS, STORED_BITS, TEACH_BITS, Excess, rank_for
from lowregret.plan.cost import Run, Study, packing_gain, run_cost, study_cost
from lowregret.plan.data import DEFAULT_LENGTH, DataFacts
from lowregret.plan.flops import NOTHING_SHARED, Shared, shared_adds
from lowregret.plan.hardware import Hardware, catalogue
from lowregret.plan.learning_rate import Rate
from lowregret.plan.memory import Memory, memory
from lowregret.plan.plan import Plan, Side
from lowregret.plan.shapes import Shapes
from lowregret.plan.wishes import Wishes
from lowregret.spec import FullFT, LoRA

_MOST_SHARDS = 64
EVALS = 2
"""Held-out evaluations of a run, by default."""


@dataclass(frozen=True)
class Room:
    """What a method needs of a device's memory, and whether that is there."""

    shapes: Shapes
    length: int
    supervised: int
    checkpoint_activations: bool
    shards: int
    hardware: Hardware | None
    batch: int = 1
    """Rows of a step: with fewer at once, a step is several passes."""
    shared: Shared = NOTHING_SHARED

    def need(self, method: FullFT | LoRA, rows: int) -> Memory:
        """Bytes on each device."""
        return memory(
            self.shapes,
            method,
            rows=rows,
            length=self.length,
            supervised=self.supervised,
            spared=_sharing(method, self.shared).spared(rows),
            checkpoint_activations=self.checkpoint_activations,
            accumulating=rows < self.batch,
            shards=self.shards,
            hardware=self.hardware,
        )

    def fits(self, method: FullFT | LoRA, rows: int = 1) -> bool | None:
        """None when no hardware is named."""
        return None if self.hardware is None else self.need(method, rows).total <= self.hardware.memory_bytes

    def remedy(self, method: FullFT | LoRA) -> str:
        """The least change that makes one row fit, as the flag to give; empty when none of those tried does."""
        if replace(self, checkpoint_activations=True).fits(method):
            return "--checkpoint-activations"
        shards = 2 * self.shards
        while shards <= _MOST_SHARDS:
            if replace(self, shards=shards).fits(method):
                return f"--shards {shards}"
            shards *= 2
        return ""

    def cheapest(self, method: FullFT | LoRA) -> Hardware | None:
        """The least device of the catalogue that holds one row and has a price; None when none does."""
        return next(
            (device for device in catalogue() if device.price_per_hour and replace(self, hardware=device).fits(method)),
            None,
        )

    def smallest(self, method: FullFT | LoRA) -> str:
        """The least device of the catalogue that holds one row; empty when none does."""
        return next((device.name for device in catalogue() if replace(self, hardware=device).fits(method)), "")


@dataclass(frozen=True)
class Workload:
    """The rows of a step and of a run, whatever the method."""

    batch_size: int
    """Rows a step: examples, or in RL samples."""
    steps: int
    length: int
    """Tokens of the longest row."""
    mean_length: float
    supervised_share: float
    held_out: int
    """Examples that judge."""
    shared: Shared = NOTHING_SHARED


def make_plan(
    shapes: Shapes,
    wishes: Wishes,
    *,
    facts: DataFacts | None = None,
    bits_per_token: float | None = None,
    pilot: tuple[Excess, str] | None = None,
    hardware: Hardware | None = None,
    price_per_hour: float | None = None,
) -> Plan:
    """Plan one model.

    Args:
        shapes: the model.
        wishes: what is fixed; the rest is chosen.
        facts: the data; without them a length is assumed and the confidence is low.
        bits_per_token: the base's own loss on a sample of the data, measured; else a prior.
        pilot: EDL of a finished run, and what it is called.
        hardware: what it is to run on: memory is then checked against it. When not given, the least device with a
            price that holds the method is assumed for time and money.
        price_per_hour: of one device; that of the hardware's catalogue when not given.
    """
    usable = facts if facts is not None and facts.examples else None
    length, mean, share = _rows(shapes, wishes, usable)

    room = Room(shapes, length, max(1, round(length * share)), wishes.checkpoint_activations, wishes.shards, hardware)
    if wishes.objective == "rl":
        room = replace(room, shared=Shared(length - wishes.max_tokens, wishes.group_size))
    found = advise(shapes, wishes, facts, bits_per_token=bits_per_token, pilot=pilot, fits=room.fits)
    choice = found.choice
    if hardware is None:
        room = replace(room, hardware=room.cheapest(found.method))
    rows = choice.batch_size * (wishes.group_size if wishes.objective == "rl" else 1)
    work = Workload(rows, choice.steps, length, mean, share, 0 if facts is None else facts.held_out, room.shared)
    room = replace(room, batch=rows)
    estimate = Estimate(shapes, wishes, work, room, price_per_hour)
    return Plan(
        shapes=shapes,
        wishes=wishes,
        facts=facts,
        information=found.information,
        advice=found.advice,
        hardware=room.hardware,
        hardware_assumed=hardware is None,
        lora=estimate.side(found.lora, sum(found.lora_parameters.values()), found.lora_rate),
        full=estimate.side(FullFT(), shapes.total, found.full_rate),
        batch_size=choice.batch_size,
        steps=choice.steps,
        length=length,
        by_target=found.lora_parameters,
        capacity=_capacity(shapes, found),
        price_given=price_per_hour is not None,
        study=estimate.study(found.lora),
    )


def _rows(shapes: Shapes, wishes: Wishes, facts: DataFacts | None) -> tuple[int, float, float]:
    """Tokens of the longest row and of a mean one, and the supervised share; without data every row is full."""
    limit = wishes.max_length or min(DEFAULT_LENGTH, shapes.context or DEFAULT_LENGTH)
    if wishes.objective == "rl":
        prompt = 0.0 if facts is None else facts.mean_length * (1 - facts.supervised_share)
        length = min(limit, round(prompt)) + wishes.max_tokens
        return length, length, wishes.max_tokens / length
    if facts is None:
        return limit, limit, 1.0
    return facts.longest, facts.mean_length, facts.supervised_share


def _sharing(method: FullFT | LoRA, shared: Shared) -> Shared:
    """What is shared with this method: nothing under dropout, whose masks go by rows (`Engine.shares`)."""
    return NOTHING_SHARED if isinstance(method, LoRA) and method.dropout else shared


def _capacity(shapes: Shapes, found: Advised) -> dict[str, Any]:
    """The `capacity` of --json."""
    information, lora = found.information, found.lora
    parameters = sum(found.lora_parameters.values())

    def needed(figure: float) -> int | None:
        return (
            None
            if information is None
            else rank_for(shapes, information.to_hold, figure, lora.targets, lora.convention)
        )

    return {
        "data_bits": information and information.bits,
        "bits_per_token": information and information.bits_per_token,
        "source": information and information.source,
        "edl_bits": information and information.edl_bits,
        "regime": "unknown" if information is None else information.regime,
        "bits_per_episode": information and information.bits_per_episode,
        "informative_groups": information and information.informative_groups,
        "lora_bits": STORED_BITS * parameters,
        "lora_bits_teach": [figure * parameters for figure in TEACH_BITS],
        "lora_bits_elicit": [figure * parameters for figure in ELICIT_BITS],
        "rank_stored": needed(STORED_BITS),
        "rank_needed": None if information is None else needed(information.bits_per_parameter),
    }


@dataclass(frozen=True)
class Estimate:
    """What each method costs on one workload."""

    shapes: Shapes
    wishes: Wishes
    work: Workload
    room: Room
    price_per_hour: float | None

    def side(self, method: FullFT | LoRA, trainable: int, rate: Rate) -> Side:
        """One column."""
        rows, fits = self._micro_batch(method)
        work = self.work
        length, shared = max(1, round(work.mean_length)), _sharing(method, work.shared)
        adds = shared_adds(self.shapes, method, length, work.supervised_share, shared)
        run = self.run(method)
        return Side(
            method=method,
            trainable=trainable,
            rate=rate,
            memory=self.room.need(method, rows),
            micro_batch=rows,
            fits=fits,
            remedy="" if fits is not False else self.room.remedy(method),
            smallest=self.room.smallest(method),
            flops_per_token=2 * adds.total,
            shipped_bytes=adapter_bytes(trainable),
            seconds=None if run is None else run.seconds,
            money=None if run is None else run.money,
        )

    def _micro_batch(self, method: FullFT | LoRA) -> tuple[int, bool | None]:
        """The largest power of two of rows that fits, up to the batch; and whether one does."""
        rows = min(self.wishes.micro_batch_size or self.work.batch_size, self.work.batch_size)
        while rows > 1 and self.room.fits(method, rows) is False:
            rows = 1 << ((rows - 1).bit_length() - 1)
        return rows, self.room.fits(method, rows)

    def run(self, method: FullFT | LoRA) -> Run | None:
        """The time and money of a run; None without hardware."""
        if self.room.hardware is None:
            return None
        return run_cost(
            self.shapes,
            method,
            self.room.hardware,
            rows=self.work.batch_size,
            steps=self.work.steps,
            length=max(1, round(self.work.mean_length)),
            supervised_share=self.work.supervised_share,
            shared=_sharing(method, self.work.shared),
            eval_tokens=EVALS * self.work.held_out * self.work.mean_length,
            checkpoint_activations=self.wishes.checkpoint_activations,
            price_per_hour=self.price_per_hour,
            shards=self.wishes.shards,
        )

    def study(self, lora: LoRA) -> Study | None:
        """What measuring the regret would take; None without hardware, and for RL, whose sampling is not counted."""
        runs = self.run(lora), self.run(FullFT())
        hardware = self.room.hardware
        if runs[0] is None or runs[1] is None or hardware is None or self.wishes.objective == "rl":
            return None
        length = max(1, round(self.work.mean_length))
        gain = packing_gain(self.shapes, lora, hardware, rows=self.work.batch_size, length=length)
        return study_cost(runs[0], runs[1], packing=gain)
