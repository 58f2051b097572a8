"""What a comparison, or the groups of a study, take before anything is trained: how many trials, and their price."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lowregret.activity import doing
from lowregret.analysis.learning_rate import SEARCH_SEED
from lowregret.errors import LowregretError
from lowregret.plan.price import MethodPrice, Price
from lowregret.plan.resources.cost import PRUNED_SHARE
from lowregret.plan.resources.hardware import Hardware
from lowregret.runs.files import METRICS
from lowregret.runs.metrics import read_metrics
from lowregret.runs.records import TrialRecord
from lowregret.runs.study import read_trials, trial_folder
from lowregret.spec import CompareSpec, GroupSpec
from lowregret.study.execute.job import GroupJob
from lowregret.study.lattice import group_estimate
from lowregret.study.search import expected_trials
from lowregret.train.inputs import RunInputs, open_inputs
from lowregret.train.price import Wanted, hardware_of, price_of
from lowregret.train.schedule import total_steps


def comparison_price(spec: CompareSpec, inputs: RunInputs, folder: Path, until: int | None = None) -> Price:
    """Of the trials that a comparison's folder lacks; of pilots, `until` a step."""
    records = read_trials(folder)
    wanted = []
    for method in spec.methods:
        own = [record for record in records if record.method == method.name]
        there = _done(folder, own, inputs.steps if until is None else until)
        asked = spec if until is None else spec.model_copy(update={"seeds": 1, "prune": None})
        expected = expected_trials(asked, method, own)
        searched = sum(record.seed == SEARCH_SEED for record in own)
        pruned = 0.0 if asked.prune is None else PRUNED_SHARE * max(expected.searched - searched, 0)
        left = max(expected.searched + expected.others - there.ended, 0)
        pilots = 0 if until is None and not spec.until_decided else max(expected.searched - searched, 0)
        wanted.append(Wanted(method, left, max(left - there.begun - pruned, 0.0), pilots))
    return price_of(inputs, wanted, hardware_of(inputs.device), folder, until)


@dataclass(frozen=True)
class _Done:
    """Of the trials that a folder has of a method."""

    ended: int
    """That need no more training."""
    begun: float
    """What the others have come to, in whole trials."""


def _done(folder: Path, records: Sequence[TrialRecord], steps: int) -> _Done:
    ended, begun = 0, 0.0
    for record in records:
        if record.status not in ("running", "failed"):
            ended += 1
        elif record.status == "running":
            file = trial_folder(folder, record.id) / METRICS
            last = read_metrics(file)[-1:] if file.exists() else []
            begun += min(sum(metric.step for metric in last) / steps, 1.0)
    return _Done(ended, begun)


def study_price(jobs: Sequence[GroupJob], at_once: int, hardware: Callable[[str], Hardware | None]) -> Price:
    """Of the trials that the groups of a study lack, so many groups side by side, on the `hardware` of a device.

    Their rows are read; of a group whose base or rows cannot be had, only how many trials it has.
    """
    prices: list[Price] = []
    with doing("reading what the groups train on", len(jobs)) as reading:
        for job, inputs in _inputs(jobs):
            prices.append(_group_price(job, inputs, hardware))
            reading.advance()
    return together(prices, at_once)


def _inputs(jobs: Sequence[GroupJob]) -> Iterator[tuple[GroupJob, RunInputs | None]]:
    """Each with what it trains on; what several share is read once."""
    known: dict[str, RunInputs | None] = {}
    for job in jobs:
        spec = job.spec
        key = f"{spec.model} {spec.data.model_dump_json()} {spec.objective.model_dump_json()} {spec.device}"
        if key not in known:
            try:
                known[key] = open_inputs(spec, lambda line: None)
            except LowregretError:  # whoever trains it says what is wrong
                known[key] = None
        found = known[key]
        yield job, None if found is None else replace(found, spec=spec, steps=total_steps(spec, len(found.data.train)))


def _group_price(job: GroupJob, inputs: RunInputs | None, hardware: Callable[[str], Hardware | None]) -> Price:
    records = read_trials(job.folder)
    total = group_estimate(job.spec, records) / len(job.spec.methods)
    wanted = []
    for method in job.spec.methods:
        there = _done(
            job.folder, [record for record in records if record.method == method.name], _steps(job.spec, inputs)
        )
        left = max(total - there.ended, 0.0)
        pruned = 0.0 if job.spec.prune is None else PRUNED_SHARE * left / max(job.spec.seeds, 1)
        wanted.append(Wanted(method, round(left), max(left - there.begun - pruned, 0.0)))
    if inputs is None:
        methods = [MethodPrice(each.method.name, each.trials, each.full_trials, 1) for each in wanted]
        return Price(tuple(replace(each, group=job.label) for each in methods), machine="")
    found = price_of(inputs, wanted, hardware(inputs.device), job.study)
    return replace(found, methods=tuple(replace(each, group=job.label) for each in found.methods))


def _steps(spec: GroupSpec, inputs: RunInputs | None) -> int:
    return spec.steps or (1 if inputs is None else inputs.steps)


def together(prices: Sequence[Price], at_once: int) -> Price:
    """Of several jobs, so many of which go on side by side."""
    needed = [each.memory_bytes for each in prices if each.memory_bytes is not None]
    hourly = [each.dollars_per_hour for each in prices if each.dollars_per_hour is not None]
    first = max(prices, key=lambda each: each.seconds or 0.0, default=Price((), ""))
    return Price(
        methods=tuple(method for each in prices for method in each.methods),
        machine=first.machine,
        memory_bytes=max(needed) * at_once if needed else None,
        has_bytes=first.has_bytes,
        disk_bytes=sum(sorted((each.disk_bytes for each in prices), reverse=True)[:at_once]),
        free_bytes=first.free_bytes,
        dollars_per_hour=max(hourly) * at_once if hourly else None,
        at_once=at_once,
        remedies=first.remedies,
    )
