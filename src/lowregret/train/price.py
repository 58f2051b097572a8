"""What the trials of a run take, by the plan and the run's own rows: told before the first one is trained."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lowregret.activity import doing
from lowregret.data.prepare import PreparedData
from lowregret.data.table import supervised_counts, token_counts
from lowregret.engine.parallel.launch import device_count
from lowregret.engine.probe import GLANCE_ROUNDS, probe
from lowregret.errors import LowregretError, SpecError
from lowregret.plan.estimate import CostEstimator, RunShape, memory_budget
from lowregret.plan.placement import PACK
from lowregret.plan.price import JUDGING, SAMPLING, TRAINING, MethodPrice, Price
from lowregret.plan.resources.cost import sampling_seconds
from lowregret.plan.resources.evaluation import choose_evaluation
from lowregret.plan.resources.flops import SharedPrefix
from lowregret.plan.resources.hardware import Hardware, find_hardware, kept_cpu, probed_cpu
from lowregret.plan.resources.memory import trainable
from lowregret.plan.shapes.weights import Shapes
from lowregret.spec import RL, FullFT, LoRA, TrainingSpec, build
from lowregret.spec.lean import kind_of
from lowregret.spec.plan import PlanSpec
from lowregret.train.inputs import RunInputs
from lowregret.train.prior import shapes_from
from lowregret.train.rl.problems import Problems
from lowregret.train.schedule import eval_steps, total_examples


@dataclass(frozen=True)
class Wanted:
    """The trials of a method that are still to be trained."""

    method: FullFT | LoRA
    trials: int
    full_trials: float
    """What they come to in whole trials."""
    pilots: int = 0
    """How many of them wait half-way, each with a checkpoint of its own."""


def price_of(
    inputs: RunInputs, wanted: Sequence[Wanted], hardware: Hardware | None, folder: Path, until: int | None = None
) -> Price:
    """What these trials take, each `until` a step or to its end, with their checkpoints in `folder`.

    Of a base that the plan cannot count, or on a device that it does not know, only how many there are.
    """
    steps = inputs.steps if until is None else until
    judged = tuple(sorted(step for step in eval_steps(inputs.spec.evals, inputs.steps) if step <= steps))
    asked = [each for each in wanted if each.trials]
    shapes = shapes_from(inputs.config, inputs.spec.model)
    try:
        estimates = {each.method.name: _Estimate.of(inputs, shapes, hardware, each.method) for each in asked}
    except LowregretError:
        estimates = {}
    methods = tuple(
        MethodPrice(
            method=each.method.name,
            trials=each.trials,
            full_trials=each.full_trials,
            steps=steps,
            judged=judged,
            parts=tuple(estimates[each.method.name].parts(steps, len(judged)).items()) if estimates else (),
        )
        for each in asked
    )
    free = shutil.disk_usage(folder).free
    price = None if hardware is None else hardware.price_per_hour
    return Price(
        methods=methods,
        machine="" if hardware is None else hardware.name,
        memory_bytes=max((each.memory_bytes for each in estimates.values()), default=None) if estimates else None,
        has_bytes=None if hardware is None else hardware.memory_bytes,
        disk_bytes=disk_bytes(shapes, inputs.spec, asked),
        free_bytes=free,
        dollars_per_hour=None if price is None else price * device_count(inputs.spec.devices),
        remedies=_remedies(inputs, steps, len(judged)),
    )


def hardware_of(device: str) -> Hardware | None:
    """What trains: this machine's CPU as an earlier probe found it, else at a glance; a GPU that the catalogue knows,
    else None."""
    if device.startswith("cuda"):
        try:
            return find_hardware(torch.cuda.get_device_name(device))
        except SpecError:
            return None
    with doing("timing this machine at a glance"):
        return kept_cpu() or probed_cpu(probe(GLANCE_ROUNDS))


def disk_bytes(shapes: Shapes, spec: TrainingSpec, wanted: Sequence[Wanted]) -> int:
    """Of the checkpoint of those in training, of that of each pilot, and of one set of weights of each method, at the
    most."""

    def numbers(method: FullFT | LoRA) -> int:
        return shapes.total if isinstance(method, FullFT) else trainable(shapes, method)

    def state(method: FullFT | LoRA) -> float:
        kind = kind_of(method, type(spec.optimizer))
        return numbers(method) * (kind.weight_bytes() + kind.state_bytes())

    def in_training(method: FullFT | LoRA) -> float:
        return state(method) * (1 if isinstance(method, FullFT) else PACK)

    methods = [each.method for each in wanted]
    try:
        kept = sum(numbers(each) * kind_of(each, type(spec.optimizer)).weight_bytes() for each in methods)
        pilots = sum(each.pilots * state(each.method) for each in wanted)
        return round(kept + pilots + max(map(in_training, methods), default=0))
    except LowregretError:
        return 0


@dataclass(frozen=True)
class _Estimate:
    """One method on one workload."""

    inputs: RunInputs
    method: FullFT | LoRA
    estimator: CostEstimator
    hardware: Hardware | None

    @classmethod
    def of(cls, inputs: RunInputs, shapes: Shapes, hardware: Hardware | None, method: FullFT | LoRA) -> _Estimate:
        request = _request(inputs.spec, method)
        longest, work = _rows(inputs)
        budget = memory_budget(shapes, request, longest, work.supervised_share, hardware)
        budget = replace(budget, batch=work.batch_size)
        return cls(
            inputs, method, CostEstimator(shapes, request, replace(work, shared=budget.shared), budget), hardware
        )

    @property
    def memory_bytes(self) -> int:
        """On a device, of a LoRA with the others of its pack."""
        rows = self.estimator.micro_batch(self.method) * (PACK if isinstance(self.method, LoRA) else 1)
        return self.estimator.budget.need(self.method, rows, self.estimator.budget.placement(self.method).mesh).total

    def parts(self, steps: int, evaluations: int) -> Mapping[str, float]:
        """Part → seconds of a trial; {} on a device that is not known."""
        run = self.estimator.run_cost(self.method)
        if run is None:
            return {}
        gain = self.estimator.packing(self.method) if isinstance(self.method, LoRA) else 1.0
        objective = self.inputs.spec.objective
        if not isinstance(objective, RL):
            return {TRAINING: steps * run.step_seconds / gain, JUDGING: evaluations * run.judging_seconds}
        assert isinstance(self.inputs.data, Problems)
        rows = self.inputs.spec.batch_size * objective.group_size
        judged = len(self.inputs.data.test) * objective.eval_samples
        return {
            TRAINING: steps * objective.updates * run.step_seconds / gain,
            SAMPLING: steps * self._sampling(rows, objective),
            JUDGING: (evaluations + 1) * self._sampling(judged, objective),
        }

    def _sampling(self, rows: int, objective: RL) -> float:
        """Seconds of so many completions."""
        assert self.hardware is not None
        assert isinstance(self.inputs.data, Problems)
        prompt = _mean([len(each.token_ids) for each in self.inputs.data.train])
        return sampling_seconds(
            self.estimator.shapes,
            self.method,
            self.hardware,
            rows=rows,
            prompt=round(prompt),
            new_tokens=objective.max_tokens,
            mesh=self.estimator.budget.placement(self.method).mesh,
        )


def _request(spec: TrainingSpec, method: FullFT | LoRA) -> PlanSpec:
    """The run as a plan is asked for it."""
    values: dict[str, Any] = {
        "method": method,
        "batch_size": spec.batch_size,
        "devices": device_count(spec.devices),
        "parallel": spec.parallel,
        "micro_batch_size": spec.micro_batch_size,
        "checkpoint_activations": spec.checkpoint_activations,
        "offload_activations": spec.offload_activations,
        "optimizer": spec.optimizer,
    }
    if isinstance(spec.objective, RL):
        own = {"group_size": spec.objective.group_size, "max_tokens": spec.objective.max_tokens}
        values |= {"objective": "rl", **own}
    return build(PlanSpec, values)


def _rows(inputs: RunInputs) -> tuple[int, RunShape]:
    """Tokens of the longest row, and the rows of an optimizer step, of which a step by reward has `updates`;
    `eval_tokens` are those of one evaluation."""
    spec, data = inputs.spec, inputs.data
    if isinstance(data, PreparedData):
        lengths = token_counts(data.train)
        shape = RunShape(
            batch_size=min(spec.batch_size, len(lengths)),
            steps=1,
            length=int(lengths.max()),
            mean_length=int(lengths.sum()) / len(lengths),
            supervised_share=int(supervised_counts(data.train).sum()) / int(lengths.sum()),
            eval_tokens=float(token_counts(data.test).sum()) if len(data.test) else 0.0,
        )
        return shape.length, shape
    assert isinstance(spec.objective, RL)
    prompt, most = _mean([len(each.token_ids) for each in data.train]), spec.objective.max_tokens
    length = round(prompt) + most
    rows = max(1, spec.batch_size * spec.objective.group_size // spec.objective.updates)
    return length, RunShape(rows, 1, length, length, most / length, 0.0, SharedPrefix())


def _remedies(inputs: RunInputs, steps: int, evaluations: int) -> tuple[tuple[str, str], ...]:
    """Part → how to spend less on it."""
    data, spec = inputs.data, inputs.spec
    times = f"{len(data.test):,} examples, {evaluations} time{'s' * (evaluations != 1)}"
    if isinstance(data, Problems):
        return ((SAMPLING, "--max-tokens and --group-size set it"), (JUDGING, f"--max-eval takes fewer ({times})"))
    if not len(data.test):
        return ()
    lengths = token_counts(data.test).tolist()
    tokens = total_examples(spec, len(data.train)) * _mean(token_counts(data.train).tolist()) * steps / inputs.steps
    fewer = choose_evaluation(lengths, tokens, evaluations, fewest=evaluations).examples
    fits = f"; try --max-eval {fewer}" if fewer < len(lengths) else ""
    return ((JUDGING, f"{times}{fits}"),)


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values)
