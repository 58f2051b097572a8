"""Which engine trains a study's groups: as the user says, else as many processes as suit the bases."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lowregret.engine.device import choose_device
from lowregret.engine.parallel.launch import started_by_torchrun
from lowregret.errors import SpecError
from lowregret.models.load import resolve
from lowregret.plan.resources.hardware import NODE, Hardware, find_hardware
from lowregret.questions.question import Question
from lowregret.runs.files import SLURM
from lowregret.study.execute.job import Executor, Expected, GroupJob
from lowregret.study.execute.local import InProcess, Pool
from lowregret.study.execute.ray import RayTasks
from lowregret.study.execute.shared import expected_of
from lowregret.study.execute.slurm import LOCAL as LOCAL_SLURM
from lowregret.study.execute.slurm import SlurmJobs, gpu_named, whole_gpus
from lowregret.study.execute.stored import Fetching
from lowregret.study.needs import SMALL_BYTES, Machines
from lowregret.study.observer import StudyObserver
from lowregret.study.tracking.tracker import Track
from lowregret.train.price import hardware_of


@dataclass(frozen=True)
class Place:
    """Where groups are trained, as far as the user says."""

    workers: int | None = None
    """At most so many at a time."""
    ray: str | None = None
    """The address of a cluster, `auto` or `local`."""
    slurm: str | None = None
    """What jobs are asked for with, `defaults` or `local`."""


@dataclass(frozen=True)
class Chosen:
    """An engine, and what its workers are told."""

    executor: Executor
    machines: Machines
    at_once: int
    """Groups that are expected to train side by side."""
    threads: int | None
    """Of torch in each worker; torch's own choice when None."""
    expected: Mapping[Path, Expected]
    """A study's folder → what workers on other machines must find; {} where there are none."""
    devices: int | None = None
    """GPUs that there are for them; as many as groups when None."""
    by_job: bool = False
    """Whether GPUs are paid for while a job has them, whole ones; else all of them all the time."""

    def hardware(self, device: str) -> Hardware | None:
        """What one of the groups at work has; None where that is not known."""
        if self.expected or device.startswith("cuda"):  # machines that are not this one, or a GPU
            return self.machines.hardware or (None if self.expected else hardware_of(device))
        here = hardware_of(device)
        if here is None or self.at_once == 1:
            return here
        part = (self.threads or 1) / torch.get_num_threads()
        return replace(
            here,
            flops_per_second=min(part, 1.0) * here.flops_per_second,
            bytes_per_second=here.bytes_per_second / self.at_once,
        )

    def price_per_hour(self, jobs: Sequence[GroupJob]) -> float | None:
        """Of all that these groups have at work at a time, at most, dollars; None where it is not known."""
        price = None if self.machines.hardware is None else self.machines.hardware.price_per_hour
        if price is None or not self.by_job:
            return None if price is None else price * (self.devices or self.at_once)
        each = sorted((whole_gpus(job.needs) for job in jobs), reverse=True)
        return price * sum(each[: self.at_once])


def require_place(place: Place, questions: Sequence[Question]) -> None:
    """SpecError for what does not go together."""
    if place.ray is not None and place.slurm is not None:
        raise SpecError("--ray and --slurm: groups are trained by one of them. Choose one.")
    on_cluster = place.ray is not None or place.slurm is not None
    if on_cluster and started_by_torchrun() is not None:
        raise SpecError("torchrun starts one training on many devices; --ray and --slurm start it by themselves.")
    if place.workers is not None and place.workers > 1 and not on_cluster and on_many(questions):
        raise SpecError(f"--workers {place.workers}: each would train on all devices. Leave --workers out.")


def choose(
    place: Place,
    studies: Mapping[Path, Question],
    observer: StudyObserver,
    should_stop: Callable[[], bool],
    track: Track | None,
    stores: Mapping[Path, str],
) -> Chosen:
    """The engine for these studies, whose folders are locked; `stores`: where each is kept as well.
    ClusterError when a cluster cannot be used."""
    questions = list(studies.values())
    small = all(size <= SMALL_BYTES for size in _sizes(questions))
    if place.ray is not None:
        expected = {folder: expected_of(folder, stores.get(folder)) for folder in studies}
        tasks = RayTasks(place.ray, place.workers, expected)
        return Chosen(
            _fetching(tasks, stores), tasks.machines(), tasks.at_once(), 1 if small else None, expected, tasks.devices()
        )
    if place.slurm is not None:
        expected = {folder: expected_of(folder, stores.get(folder)) for folder in studies}
        at_once = place.workers or (os.cpu_count() or 1 if place.slurm == LOCAL_SLURM else None)
        jobs = SlurmJobs(place.slurm, at_once, next(iter(studies)) / SLURM)
        named = gpu_named(place.slurm)
        machines = Machines(named is not None, None if named is None else find_hardware(named))
        groups = at_once or sum(len(question.groups()) for question in questions)
        node = NODE if machines.hardware is None else machines.hardware.node
        return Chosen(
            _fetching(jobs, stores), machines, groups, 1 if small else None, expected, max(groups, node), by_job=True
        )
    count = place.workers or _suitable_workers(questions)
    if count == 1:
        return Chosen(InProcess(observer, should_stop, track), Machines(), 1, None, {})
    return Chosen(Pool(count), Machines(), count, max(1, (os.cpu_count() or 1) // count), {})


def _fetching(executor: Executor, stores: Mapping[Path, str]) -> Executor:
    return Fetching(executor, stores) if stores else executor


def on_many(questions: Sequence[Question]) -> bool:
    """Whether a training has several devices."""
    return any(question.devices > 1 for question in questions) or started_by_torchrun() is not None


def _suitable_workers(questions: Sequence[Question]) -> int:
    """As many as cores where all bases are small folders and the device is one CPU, else one."""
    devices = {group.device for question in questions for group in question.groups()}
    on_cpu = all(choose_device(device).type == "cpu" for device in devices)
    if on_many(questions) or not on_cpu or any(size > SMALL_BYTES for size in _sizes(questions)):
        return 1
    return os.cpu_count() or 1


def _sizes(questions: Sequence[Question]) -> list[int]:
    """Bytes of each base's folder; of one that is no folder, more than a small one has."""
    paths = {Path(resolve(group.model).path) for question in questions for group in question.groups()}
    return [sum(file.stat().st_size for file in path.glob("*")) if path.is_dir() else SMALL_BYTES + 1 for path in paths]
