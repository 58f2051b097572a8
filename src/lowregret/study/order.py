"""Which groups of studies train first. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from lowregret.study.execute.job import GroupJob


def in_order(jobs: Sequence[GroupJob], workers: int) -> list[GroupJob]:
    """Groups whose way to the end is longer than all work shared by the workers come first, the longest before the
    others: they decide when all is over. Of the rest, those of the study that has least left, so that its claims are
    known early; the longest of it first.

    A group's way to the end is its own time and that of the longest chain of groups that start from it.
    """
    ways = to_the_end(jobs)
    share = sum(job.seconds for job in jobs) / max(workers, 1)
    left: dict[Path, float] = defaultdict(float)
    for job in jobs:
        left[job.study] += job.seconds

    def key(job: GroupJob) -> tuple[bool, float, float]:
        decides = ways[job.folder] >= share > 0
        return not decides, 0.0 if decides else left[job.study], -ways[job.folder]

    return sorted(jobs, key=key)


def to_the_end(jobs: Sequence[GroupJob]) -> Mapping[Path, float]:
    """Seconds from a group's start until it and all that start from it are done, by the group's folder."""
    followers: dict[Path, list[GroupJob]] = defaultdict(list)
    for job in jobs:
        if job.after is not None:
            followers[job.after].append(job)
    found: dict[Path, float] = {}

    def way(job: GroupJob) -> float:
        if job.folder not in found:
            found[job.folder] = job.seconds + max(map(way, followers[job.folder]), default=0.0)
        return found[job.folder]

    for job in jobs:
        way(job)
    return found
