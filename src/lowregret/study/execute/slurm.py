"""Groups as jobs of SLURM, by submitit; or, with `local`, as processes of this machine by the same way.

A job trains a group and ends. Those of a program that was killed go on; started again, it waits for them.
"""

from __future__ import annotations

import math
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lowregret.errors import ClusterError, SpecError, did_you_mean
from lowregret.runs.atomic import make_folder
from lowregret.runs.holder import holder_of
from lowregret.study.execute.job import Ended, Needs, Outcome, Task
from lowregret.study.execute.work import work

LOCAL, DEFAULTS = "local", "defaults"
_KEYS = {"partition", "account", "qos", "constraint", "time", "gpu", "nodelist", "exclude", "reservation"}
_LOOK_SECONDS = 0.2
_STOP_SECONDS = 60.0
_BUSY_SECONDS, _AGAIN_SECONDS = 30.0, 3.0
_BUSY = ("Socket timed out", "Unable to contact slurm controller", "temporarily unavailable", "Zero Bytes were")
"""What sbatch says of a controller that starts again or has too much to do."""
_MINUTES = 24 * 60
_OWN = 0o700


def parse_slurm(text: str) -> dict[str, str]:
    """`partition=gpu,time=240` as a table; SpecError for a key that is none."""
    if text in (LOCAL, DEFAULTS):
        return {}
    found: dict[str, str] = {}
    last = ""
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals and key.strip() and key.strip() not in _KEYS:
            if last == "exclude":  # several nodes, by comma
                found[last] += f",{key.strip()}"
                continue
            if last == "nodelist":
                raise SpecError(
                    f"--slurm {text}: a job runs on one node. Name one in nodelist, or keep jobs off others with "
                    "exclude=A,B."
                )
        last = key.strip()
        if key.strip() not in _KEYS:
            raise SpecError(f"--slurm {text}: {did_you_mean(key.strip(), _KEYS)} Or {DEFAULTS}, or {LOCAL}.")
        if not equals or not value.strip():
            raise SpecError(f"--slurm {text}: {key.strip()} has no value. Give it as {key.strip()}=….")
        if key.strip() in found:
            raise SpecError(f"--slurm {text}: {key.strip()} is given twice. Give it once.")
        found[key.strip()] = value.strip()
    if "time" in found and not found["time"].isdecimal():
        raise SpecError(f"--slurm {text}: time is a whole number of minutes, such as time=240.")
    if found.get("gpu", "").lower() in ("cpu", "auto"):
        raise SpecError(f"--slurm {text}: gpu names what jobs ask for, such as gpu=H100. Leave it out for CPUs.")
    return found


class SlurmJobs:
    """A job a group."""

    watches = True

    def __init__(self, asked: str, workers: int | None, folder: Path) -> None:
        """
        Args:
            asked: `partition=gpu,time=240,…`, `defaults`, or `local` for processes of this machine.
            workers: at most so many jobs at a time; as many as there are groups when None.
            folder: for submitit's files, in a new folder of each start; the machines share it.

        Raises:
            ClusterError: no submitit here, or no SLURM.
            SpecError: a key that is none.
        """
        self._asked = parse_slurm(asked)
        self._local = asked == LOCAL
        self._most = workers
        self._running: dict[Any, Task] = {}
        make_folder(folder)
        folder.chmod(_OWN)  # what is asked for may hold the secret of an address
        # of its own: a result that lies there under a job's number, an earlier one's or a stranger's, would be read
        self._submitit, self._executor = _executor(folder / secrets.token_hex(8), local=self._local)
        self.name = "processes by submitit" if self._local else "SLURM"

    def has_room(self, needs: Needs) -> bool:
        return self._most is None or len(self._running) < self._most

    def submit(self, task: Task) -> None:
        needs = task.job.needs
        options: dict[str, Any] = {"name": "lowregret", "timeout_min": int(self._asked.get("time", _MINUTES))}
        if not self._local:
            options |= {"cpus_per_task": needs.cpus, "slurm_signal_delay_s": 120}
            options |= {"mem_gb": -(-needs.memory_bytes // 10**9)} if needs.memory_bytes else {}
            options |= {"gpus_per_node": whole_gpus(needs)} if needs.gpus else {}
            own = {key: value for key, value in self._asked.items() if key not in ("time", "gpu")}
            direct = {"partition", "constraint", "account", "qos"}
            options |= {f"slurm_{key}": value for key, value in own.items() if key in direct}
            if extra := {key: value for key, value in own.items() if key not in direct}:
                options["slurm_additional_parameters"] = extra
        self._executor.update_parameters(**options)
        self._running[self._submitted(task)] = task

    def _submitted(self, task: Task) -> Any:
        """A job; one that the controller was too busy to take is sent again. Taken twice, the second waits for the
        group's lock."""
        end = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                return self._executor.submit(work, task)
            except (self._submitit.core.utils.FailedJobError, subprocess.CalledProcessError, OSError) as error:
                said = str(error).strip()[-500:]
                if not any(word in said for word in _BUSY):
                    raise ClusterError(f"--slurm: the job was not taken: {said}") from None
                if time.monotonic() > end:
                    raise ClusterError(
                        f"--slurm: its controller has taken no job for {_BUSY_SECONDS:.0f} s: {said}. Run the same "
                        "command again when `sinfo` answers; jobs that were taken go on."
                    ) from None
            time.sleep(_AGAIN_SECONDS)

    def events(self, seconds: float) -> Sequence[Ended]:
        end = time.monotonic() + seconds
        while self._running:
            done = [job for job in self._running if job.done()]
            if done or time.monotonic() > end:
                return [Ended(self._running.pop(job), self._outcome(job)) for job in done]
            time.sleep(_LOOK_SECONDS)
        return []

    def cancel(self) -> None:
        for job, task in self._running.items():
            self._ask_to_stop(job, task)
        end = time.monotonic() + _STOP_SECONDS
        while not all(job.done() for job in self._running) and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)

    def close(self) -> None:
        for job in self._running:
            if not job.done():
                job.cancel(check=False)
            job.paths.submitted_pickle.unlink(missing_ok=True)
        self._running.clear()

    def _ask_to_stop(self, job: Any, task: Task) -> None:
        """SIGTERM, which writes a checkpoint; a job that has not begun to train is cancelled."""
        if job.done():
            return
        begun = holder_of(task.job.folder) is not None if task.store is None else job.state != "PENDING"
        if not begun:  # where a store is named a job trains in a folder of its own machine
            job.cancel(check=False)
        elif self._local:  # its controller, a child of ours, hands it on; a process that a lock names may be anybody's
            with suppress(ProcessLookupError):
                os.kill(int(job.job_id), signal.SIGTERM)
        else:
            subprocess.run(["scancel", "--signal=TERM", str(job.job_id)], check=False, capture_output=True)

    def _outcome(self, job: Any) -> Outcome:
        job.paths.submitted_pickle.unlink(missing_ok=True)
        try:
            found: Outcome = job.result()
        except Exception as error:  # submitit: a job that left no result, or one whose own error came back
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return Outcome("lost", why=f"its job {job.job_id} left no result ({lines[0][:200] if lines else error!r})")
        return found


def _executor(folder: Path, *, local: bool) -> tuple[Any, Any]:
    try:
        import submitit
    except ImportError:
        raise ClusterError(
            "--slurm needs the package submitit. Install it by `pip install 'lowregret[cluster]'`."
        ) from None
    try:
        return submitit, submitit.AutoExecutor(folder=folder, cluster=LOCAL if local else "slurm")
    except RuntimeError as error:
        raise ClusterError(f"--slurm: {error} It is started on a machine that has `srun` and `sbatch`.") from None


def whole_gpus(needs: Needs) -> int:
    """That a job asks for: SLURM gives no parts of one."""
    return math.ceil(needs.gpus)


def gpu_named(asked: str) -> str | None:
    """The GPU that --slurm names."""
    found: Mapping[str, str] = parse_slurm(asked)
    return found.get("gpu")
