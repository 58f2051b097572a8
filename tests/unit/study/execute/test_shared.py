"""What a machine must share with the one that runs a study, and what is told of one that does not."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lowregret.errors import ClusterError, SpecError
from lowregret.questions.registry import make_question
from lowregret.runs.atomic import write_json
from lowregret.runs.files import LOCK
from lowregret.runs.holder import Holder
from lowregret.runs.lock import lock_run
from lowregret.study.execute.job import Expected, GroupJob, Needs, Task
from lowregret.study.execute.ray import RayTasks, _no_answer
from lowregret.study.execute.shared import expected_of, problem_here, require_shared, versions
from lowregret.study.execute.slurm import SlurmJobs, gpu_named, parse_slurm


def test_this_machine_shares_with_itself(tmp_path: Path) -> None:
    with lock_run(tmp_path / "study"):
        expected = expected_of(tmp_path / "study")
        require_shared(expected)
        assert problem_here(expected) == ""


def test_a_folder_that_is_another_one_is_told(tmp_path: Path) -> None:
    with lock_run(tmp_path / "study"), lock_run(tmp_path / "other"):
        (tmp_path / "other" / "study.json").touch()
        expected = expected_of(tmp_path / "study")
        for there, said in ((tmp_path / "other", "is another folder there"), (tmp_path / "none", "is not there")):
            with pytest.raises(ClusterError, match=f"does not share the study's folder: {there} {said}"):
                require_shared(replace(expected, study=there), seconds=0.1)
        with pytest.raises(ClusterError, match="has no /nowhere, where the study was started"):
            require_shared(replace(expected, working_folder=Path("/nowhere")))


def test_other_versions_are_told_by_name(tmp_path: Path) -> None:
    with lock_run(tmp_path / "study"):
        expected = expected_of(tmp_path / "study")
        other = {**versions(), "torch": "1.0.0", "flax": "3"}
        own = versions()["torch"]
        with pytest.raises(ClusterError, match=rf"has torch {own} instead of 1\.0\.0, flax not at all instead of 3\."):
            require_shared(replace(expected, versions=tuple(other.items())))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "nothing answers there"),
        ("nowhere.invalid:6379", "nothing answers there"),
        ("ray://127.0.0.1:10001", "give HOST:PORT"),
        ("cluster", "give HOST:PORT"),
        ("a..b:6379", "nothing answers there"),
    ],
)
def test_an_address_without_a_cluster_is_told(address: str, said: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ClusterError, match=said):
        RayTasks(address, None, {})


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_a_head_may_have_an_address_of_the_sixth_version() -> None:
    pytest.importorskip("ray")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as head:
        assert _no_answer(f"[::1]:{head.getsockname()[1]}", 1.0) is None
    assert _no_answer("[::1]:1", 1.0) is not None


class FakeRay:
    """Its nodes, and what each answers; one that answers by an error of Ray's is seen to be dead by that."""

    def __init__(self, *nodes: dict[str, float], answers: Sequence[str | Exception] = ()) -> None:
        self._nodes, self._answers = nodes, answers
        self._dead: set[int] = set()
        self.head = socket.create_server(("127.0.0.1", 0))
        self.exceptions = pytest.importorskip("ray").exceptions

    def nodes(self) -> list[dict[str, object]]:
        return [
            {
                "Alive": n not in self._dead,
                "NodeID": f"{n + 1:056}",
                "NodeManagerHostname": f"node{n}",
                "Resources": resources,
            }
            for n, resources in enumerate(self._nodes)
        ]

    def get_runtime_context(self) -> SimpleNamespace:
        return SimpleNamespace(gcs_address=f"127.0.0.1:{self.head.getsockname()[1]}")

    def remote(self, work: object) -> FakeRay:
        return self

    def options(self, *, scheduling_strategy: Any, **options: object) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda expected: int(scheduling_strategy.node_id) - 1)

    def wait(self, asked: list[int], **options: object) -> tuple[list[int], list[int]]:
        return asked, []

    def get(self, number: int) -> str:
        answer = self._answers[number]
        if isinstance(answer, Exception):
            self._dead.add(number)
            raise answer
        return answer

    def shutdown(self) -> None: ...


def asked(monkeypatch: pytest.MonkeyPatch, *answers: str | Exception) -> RayTasks:
    ray = FakeRay(*[{"CPU": 1.0}] * len(answers), answers=answers)
    monkeypatch.setattr("lowregret.study.execute.ray._connected", lambda address, workers: ray)
    return RayTasks("auto", None, {Path("study"): Expected(Path.cwd(), Path("study"), "", ())})


def test_a_node_that_dies_while_it_is_asked_is_one_less(monkeypatch: pytest.MonkeyPatch) -> None:
    died = pytest.importorskip("ray").exceptions.TaskUnschedulableError("the node does not exist any more")
    assert asked(monkeypatch, "", "", died).name == "Ray, 2 nodes"
    with pytest.raises(ClusterError, match=r"no node of the cluster says .*does not exist any more.*`ray status`"):
        asked(monkeypatch, died, died)
    with pytest.raises(ClusterError, match=r"^other versions$"):
        asked(monkeypatch, "", died, "other versions")


def test_a_head_that_is_gone_ends_the_study_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = asked(monkeypatch, "")
    monkeypatch.setattr("lowregret.study.execute.ray._LOOK_SECONDS", 0.0)
    assert list(tasks.events(0)) == []
    tasks._ray.head.close()
    monkeypatch.setattr("lowregret.study.execute.ray._HEAD_SECONDS", 0.1)
    with pytest.raises(
        ClusterError, match=r"the head of the cluster at 127.0.0.1:\d+ has not answered for .* without --ray"
    ):
        tasks.events(0)


def on(monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float], workers: int | None = None) -> RayTasks:
    monkeypatch.setattr("lowregret.study.execute.ray._connected", lambda address, workers: FakeRay(*nodes))
    return RayTasks("auto", workers, {})


def test_what_will_never_have_room_is_told_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = on(monkeypatch, {"CPU": 8.0, "GPU": 2.0, "memory": 64e9}, {"CPU": 16.0, "memory": 128e9})
    assert tasks.has_room(Needs(16, 100 * 10**9))
    assert tasks.has_room(Needs(1, 0, 2.0))
    with pytest.raises(ClusterError, match="needs 1 CPU, 4 GPUs on one node, and no node has that: node0: 8 CPUs, 64 "):
        tasks.has_room(Needs(1, 0, 4.0))
    with pytest.raises(ClusterError, match="16 CPUs, 1 GPU"):
        tasks.has_room(Needs(16, 0, 1.0))
    tasks._ray._nodes = ({"CPU": 8.0},)
    assert not tasks.has_room(Needs(1, 0, 2.0)), "the node that had it is gone: waited for"


def test_the_kind_of_gpu_is_what_the_nodes_say(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = on(monkeypatch, {"CPU": 8.0, "GPU": 8.0, "accelerator_type:H100": 1.0}, {"CPU": 4.0})
    machines = tasks.machines()
    assert machines.gpus
    assert machines.hardware is not None
    assert machines.hardware.name.startswith("H100")
    assert tasks.at_once() == 8
    assert not on(monkeypatch, {"CPU": 4.0}).machines().gpus
    assert on(monkeypatch, {"CPU": 4.0}, workers=2).at_once() == 2


def test_what_slurm_is_asked_for(tmp_path: Path) -> None:
    assert parse_slurm("partition=gpu,time=240,gpu=H100") == {"partition": "gpu", "time": "240", "gpu": "H100"}
    assert parse_slurm("defaults") == parse_slurm("local") == {}
    assert parse_slurm("nodelist=a1,exclude=b1, b[2-5],time=240") == {
        "nodelist": "a1",
        "exclude": "b1,b[2-5]",
        "time": "240",
    }
    assert gpu_named("gpu=H100") == "H100"
    for text, said in (
        ("partion=gpu", "Did you mean 'partition'"),
        ("partition", "has no value"),
        ("time=4h", "whole number of minutes"),
        ("partition=a,partition=b", "partition is given twice"),
        ("gpu=cpu", "gpu names what jobs ask for"),
        ("nodelist=a,b", "a job runs on one node"),
    ):
        with pytest.raises(SpecError, match=said):
            parse_slurm(text)


def test_a_machine_without_slurm_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=r"srun.*It is started on a machine that has `srun` and `sbatch`"):
        SlurmJobs("defaults", None, tmp_path)


class Job:
    """One of submitit's, whose controller is this sleeping process."""

    def __init__(self, process: subprocess.Popen[bytes], submitted: Path) -> None:
        self.process, self.job_id = process, str(process.pid)
        self.paths = SimpleNamespace(submitted_pickle=submitted)

    def done(self) -> bool:
        return self.process.poll() is not None


def test_who_a_lock_names_is_sent_no_signal(tmp_path: Path) -> None:
    """The folder may come from elsewhere, and a number of a process that has ended is given to another."""
    pytest.importorskip("submitit")
    job = GroupJob(tmp_path / "study" / "groups" / "one.lora", make_question({"kind": "rank"}).groups()[0], "one", None)
    job.folder.mkdir(parents=True)
    stranger, controller = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    try:
        write_json(job.folder / LOCK, asdict(replace(Holder.here(), pid=stranger.pid)))
        jobs = SlurmJobs("local", 1, tmp_path / "slurm")
        submitted = tmp_path / "submitted.pkl"
        submitted.touch()
        jobs._running[Job(controller, submitted)] = Task(job, {})
        jobs.cancel()
        assert controller.wait(10) == -signal.SIGTERM
        assert stranger.poll() is None
        jobs.close()
        assert not submitted.exists(), "it may hold a secret"
    finally:
        for process in (stranger, controller):
            process.kill()
            process.wait()


def test_results_that_lie_in_the_folder_are_not_read(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    there = {SlurmJobs("local", 1, tmp_path)._executor.folder for _ in range(2)}
    assert len(there) == 2
    assert all(folder.parent == tmp_path for folder in there)


class BusyExecutor:
    """Takes a job after so many refusals."""

    def __init__(self, *refusals: str) -> None:
        self.refusals = list(refusals)

    def update_parameters(self, **options: object) -> None: ...

    def submit(self, work: object, task: Task) -> str:
        if self.refusals:
            raise OSError(self.refusals.pop())
        return "a job"


def test_a_controller_that_is_busy_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr("lowregret.study.execute.slurm._AGAIN_SECONDS", 0.0)
    busy = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    job = GroupJob(tmp_path / "study" / "groups" / "one.lora", make_question({"kind": "rank"}).groups()[0], "one", None)
    jobs = SlurmJobs("local", 1, tmp_path / "slurm")
    jobs._executor = BusyExecutor(busy, busy)
    jobs.submit(Task(job, {}))
    assert list(jobs._running) == ["a job"]
    jobs._executor = BusyExecutor("sbatch: error: invalid partition specified: gup")
    with pytest.raises(ClusterError, match="not taken: sbatch: error: invalid partition"):
        jobs.submit(Task(job, {}))
    monkeypatch.setattr("lowregret.study.execute.slurm._BUSY_SECONDS", -1.0)
    jobs._executor = BusyExecutor(busy)
    with pytest.raises(ClusterError, match=r"has taken no job for .* Run the same command again"):
        jobs.submit(Task(job, {}))
