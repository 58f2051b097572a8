"""Which groups come first."""

from __future__ import annotations

from pathlib import Path

from lowregret.questions.registry import make_question
from lowregret.study.execute.job import GroupJob
from lowregret.study.order import in_order, to_the_end

GROUP = make_question({"kind": "layers"}).groups()[0]


def job(name: str, seconds: float, after: str | None = None) -> GroupJob:
    study, _, key = name.partition("/")
    place = Path(study) / "groups"
    return GroupJob(place / key, GROUP, name, None if after is None else place / after, seconds=seconds)


def names(jobs: list[GroupJob]) -> list[str]:
    return [job.label for job in jobs]


def test_what_decides_when_all_is_over_comes_first_then_the_study_with_least_left() -> None:
    jobs = [job("a/1", 10), job("a/2", 12), job("b/1", 5), job("b/2", 6), job("a/long", 40)]
    assert names(in_order(jobs, workers=2)) == ["a/long", "b/2", "b/1", "a/2", "a/1"]


def test_a_chain_counts_as_a_whole() -> None:
    jobs = [job("a/1", 20), job("a/2", 12), job("a/3", 12, after="2")]
    assert to_the_end(jobs)[jobs[1].folder] == 24
    assert names(in_order(jobs, workers=2)) == ["a/2", "a/1", "a/3"]


def test_without_times_the_order_is_that_of_the_questions() -> None:
    jobs = [job("a/1", 0), job("b/1", 0), job("a/2", 0)]
    assert names(in_order(jobs, workers=4)) == names(jobs)
