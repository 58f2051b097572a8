"""How jobs of SLURM are asked to stop."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from lowregret.questions.registry import make_question
from lowregret.study.execute.job import GroupJob, Task
from lowregret.study.execute.slurm import SlurmJobs

GROUP = make_question({"kind": "rank"}).groups()[0]


@pytest.mark.parametrize(
    ("store", "state", "wanted"),
    [
        (None, "RUNNING", "cancelled"),  # it has not locked its folder
        ("s3://lab/toy", "PENDING", "cancelled"),
        ("s3://lab/toy", "RUNNING", "--signal=TERM"),
    ],
)
def test_a_job_that_trains_in_a_folder_of_its_own_machine_may_write_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str | None, state: str, wanted: str
) -> None:
    done: list[str] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **options: done.append(command[1]))
    job = SimpleNamespace(job_id="7", state=state, done=lambda: False, cancel=lambda check: done.append("cancelled"))
    jobs = object.__new__(SlurmJobs)
    jobs._local = False
    jobs._ask_to_stop(job, Task(GroupJob(tmp_path / "groups" / GROUP.key, GROUP, "one", None), {}, store=store))
    assert done == [wanted]
