"""What each method takes of memory, time and money on one workload: for a plan, and for a run about to start.
Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lowregret.plan.placement import PACK
from lowregret.plan.plan import Here, MethodPlan
from lowregret.plan.rates.recommend import RatePrior
from lowregret.plan.resources.budget import MemoryBudget
from lowregret.plan.resources.cost import RunCost, StudyCost, packing_gain, run_cost, study_cost
from lowregret.plan.resources.flops import NO_SHARED_PREFIX, SharedPrefix, shared_adds
from lowregret.plan.resources.hardware import Hardware
from lowregret.plan.resources.lean import lean_fit
from lowregret.plan.shapes.adapters import adapter_bytes
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import FullFT, LoRA
from lowregret.spec.lean import kind_of, steps_in_backward
from lowregret.spec.plan import PlanSpec


@dataclass(frozen=True)
class RunShape:
    """The rows of a step and of a run, whatever the method."""

    batch_size: int
    """Rows a step: examples, or in RL samples."""
    steps: int
    length: int
    """Tokens of the longest row."""
    mean_length: float
    supervised_share: float
    eval_tokens: float
    """Tokens of all held-out evaluations of a trial together."""
    shared: SharedPrefix = NO_SHARED_PREFIX


def memory_budget(
    shapes: Shapes, request: PlanSpec, length: int, supervised_share: float, hardware: Hardware | None
) -> MemoryBudget:
    """What memory is counted by, before the method is chosen."""
    budget = MemoryBudget(
        shapes,
        length,
        max(1, round(length * supervised_share)),
        request.checkpoint_activations,
        request.devices,
        hardware,
        request.mesh,
        optimizer=type(request.optimizer),
        offload_activations=request.offload_activations,
    )
    if request.objective == "rl":
        return replace(budget, shared=SharedPrefix(length - request.max_tokens, request.group_size))
    return budget


def full_asked(request: PlanSpec) -> FullFT:
    """The full fine-tuning that was asked for; the plain one when none was."""
    return request.method if isinstance(request.method, FullFT) else FullFT()


@dataclass(frozen=True)
class CostEstimator:
    """What each method costs on one workload."""

    shapes: Shapes
    request: PlanSpec
    work: RunShape
    budget: MemoryBudget

    def method_plan(self, method: FullFT | LoRA, trainable: int, rate: RatePrior) -> MethodPlan:
        """One column."""
        placement = self.budget.placement(method)
        rows = self.micro_batch(method)
        need = self.budget.need(method, rows, placement.mesh)
        fits = placement.fits and self.budget.holds(need)
        work = self.work
        length, shared = max(1, round(work.mean_length)), work.shared.for_method(method)
        adds = shared_adds(self.shapes, method, length, work.supervised_share, shared)
        run = self.run_cost(method)
        return MethodPlan(
            method=method,
            trainable=trainable,
            rate=rate,
            memory=need,
            micro_batch=rows,
            fits=fits,
            remedy="" if fits is not False else self.budget.remedy(method),
            lean=lean_fit(self.budget, self.shapes.context) if fits is False and isinstance(method, FullFT) else None,
            smallest=self.budget.smallest(method),
            flops_per_token=2 * adds.total,
            shipped_bytes=adapter_bytes(trainable, kind_of(method, type(self.request.optimizer)).WEIGHTS),
            seconds=None if run is None else run.seconds,
            money=None if run is None else run.money,
            placement=placement,
            slices=self.budget.slices(method, placement.mesh),
            sent_bytes=0.0 if run is None else run.sent_bytes,
            waiting_share=0.0 if run is None else run.waiting_seconds / run.step_seconds,
        )

    def micro_batch(self, method: FullFT | LoRA) -> int:
        """The largest power of two of rows that fits, up to a device's share of the batch; 1 if none does."""
        placement = self.budget.placement(method)
        share = placement.rows(self.work.batch_size)
        if steps_in_backward(method):
            return share
        rows = min(self.request.micro_batch_size or share, share)
        while rows > 1 and self.budget.holds(self.budget.need(method, rows, placement.mesh)) is False:
            rows = 1 << ((rows - 1).bit_length() - 1)
        return rows

    def run_cost(self, method: FullFT | LoRA) -> RunCost | None:
        """The time and money of a run; None without hardware."""
        if self.budget.hardware is None:
            return None
        placement = self.budget.placement(method)
        share = placement.rows(self.work.batch_size)
        return run_cost(
            self.shapes,
            method,
            self.budget.hardware,
            rows=self.work.batch_size,
            steps=self.work.steps,
            length=max(1, round(self.work.mean_length)),
            supervised_share=self.work.supervised_share,
            shared=self.work.shared.for_method(method),
            eval_tokens=self.work.eval_tokens,
            checkpoint_activations=self.request.checkpoint_activations,
            price_per_hour=self.request.price,
            mesh=placement.mesh,
            deals_rows=placement.deals_rows,
            passes=-(-share // self.micro_batch(method)),
            optimizer=type(self.request.optimizer),
        )

    def study_cost(self, lora: Here | None, full: Here | None) -> StudyCost | None:
        """What measuring the regret would take, with both methods as they fit; None where one does not, without
        hardware, and for RL, whose sampling is not counted."""
        if lora is None or full is None or self.request.objective == "rl":
            return None
        if lora.checkpoint_activations or full.checkpoint_activations:
            request = self.request.model_copy(update={"checkpoint_activations": True, "offload_activations": False})
            budget = replace(self.budget, checkpoint_activations=True, offload_activations=False)
            again = replace(self, request=request, budget=budget)
            return again.study_cost(Here(lora.method), Here(full.method))
        assert isinstance(lora.method, LoRA)
        runs = self.run_cost(lora.method), self.run_cost(full.method)
        if runs[0] is None or runs[1] is None:
            return None
        apart = self.budget.placement(lora.method)
        return study_cost(
            runs[0], runs[1], packing=self.packing(lora.method), apart=1 if apart.deals_rows else apart.mesh.data
        )

    def packing(self, lora: LoRA) -> float:
        """How many times as fast the trials of a pack are as one after another; 1 without hardware."""
        hardware, placement = self.budget.hardware, self.budget.placement(lora)
        if hardware is None:
            return 1.0
        if not placement.deals_rows:  # the device with most trials is the last to be done
            return PACK / -(-PACK // placement.mesh.data)
        length = max(1, round(self.work.mean_length))
        rows = placement.rows(self.work.batch_size)
        return packing_gain(self.shapes, lora, hardware, rows=rows, length=length)
