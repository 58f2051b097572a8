"""Groups as tasks of a Ray cluster, one on this machine included. Ray places and runs them; the records are the truth,
so what it loses is tried again from the folder."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lowregret.errors import ClusterError, SpecError
from lowregret.plan.resources.hardware import find_hardware
from lowregret.study.execute.job import Ended, Expected, Needs, Outcome, Task
from lowregret.study.execute.shared import problem_here
from lowregret.study.execute.work import work
from lowregret.study.needs import Machines

LOCAL = "local"
_ANSWER_SECONDS = 5.0
_STOP_SECONDS = 60.0
_LOOK_SECONDS = 0.5
_HEAD_SECONDS = 15.0
"""How long the head may be silent; Ray gives it 60."""
_NODES_SECONDS = 60.0
"""How long the nodes may take to say what they have."""
_STORE_BYTES = 80_000_000
"""Ray's object store on this machine: a task and its outcome are small."""
_PORT = 6379
_KIND = "accelerator_type:"
"""What the name of a node's resource begins with that tells its kind of GPU."""


class RayTasks:
    """A task a group, with what the group needs."""

    watches = True

    def __init__(self, address: str, workers: int | None, expected: Mapping[Path, Expected]) -> None:
        """
        Args:
            address: HOST:PORT of the head, `auto` for the cluster that this machine is part of, or `local`.
            workers: at most so many at a time; of `local` so many CPUs. None for as many as have room.
            expected: a study's folder → what every node must find.

        Raises:
            ClusterError: no ray here, no answer within seconds, or a node that cannot take part.
        """
        self._ray = _connected(address, workers)
        self._head: str = self._ray.get_runtime_context().gcs_address
        self._most = workers
        self._running: dict[Any, Task] = {}
        self._had_room: set[Needs] = set()
        try:
            count = min((self._require_nodes(what) for what in expected.values()), default=len(self._nodes()))
        except BaseException:
            self._ray.shutdown()
            raise
        self.name = f"Ray, {count} node{'s' if count > 1 else ''}"

    def has_room(self, needs: Needs) -> bool:
        nodes = self._nodes()
        if any(_holds(node, needs) for node in nodes):
            self._had_room.add(needs)
        elif needs in self._had_room:
            return False  # the node that had it is gone, and another may come
        else:
            there = "; ".join(sorted(f"{_named(node)}: {_said(node['Resources'])}" for node in nodes))
            raise ClusterError(
                f"a group needs {needs} on one node, and no node has that: {there}. Start a larger one (`ray start "
                "--num-cpus --num-gpus --memory`), or use fewer --devices."
            )
        if self._most is not None and len(self._running) >= self._most:
            return False
        free = [dict(node["Resources"]) for node in nodes]
        asked = sorted([task.job.needs for task in self._running.values()] + [needs], key=_weight, reverse=True)
        return all(_take(free, each) for each in asked)

    def submit(self, task: Task) -> None:
        needs = task.job.needs
        remote = self._ray.remote(work).options(
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
            memory=needs.memory_bytes or None,
            max_retries=0,
            name=task.job.label,
        )
        self._running[remote.remote(task)] = task

    def events(self, seconds: float) -> Sequence[Ended]:
        self._require_head()
        if not self._running:
            return []
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        if done:
            done, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        return [Ended(self._running.pop(each), self._outcome(each)) for each in done]

    def cancel(self) -> None:
        for each in self._running:
            with suppress(self._ray.exceptions.RayError, ValueError):
                self._ray.cancel(each)
        if self._running:
            self._ray.wait(list(self._running), num_returns=len(self._running), timeout=_STOP_SECONDS)

    def close(self) -> None:
        for each in self._running:
            with suppress(self._ray.exceptions.RayError, ValueError):
                self._ray.cancel(each, force=True)
        self._running.clear()
        self._ray.shutdown()

    def machines(self) -> Machines:
        """What the nodes have now; of GPUs of several kinds the one with least memory is told."""
        nodes = self._nodes()
        kinds = {name.partition(":")[2] for node in nodes for name in node["Resources"] if name.startswith(_KIND)}
        known = []
        for kind in kinds:
            with suppress(SpecError):
                known.append(find_hardware(kind))
        gpus = any(node["Resources"].get("GPU") for node in nodes)
        return Machines(gpus, min(known, key=lambda device: device.memory_bytes, default=None))

    def at_once(self) -> int:
        """Groups that train side by side if each takes a CPU, or where there are GPUs one of them."""
        return min(self._most or sys.maxsize, self.devices())

    def devices(self) -> int:
        """GPUs of all nodes; where there are none, CPUs."""
        total = {name: sum(node["Resources"].get(name, 0.0) for node in self._nodes()) for name in ("CPU", "GPU")}
        return max(1, int(total["GPU"] or total["CPU"]))

    def _outcome(self, reference: Any) -> Outcome:
        errors = self._ray.exceptions
        try:
            found: Outcome = self._ray.get(reference)
        except errors.TaskCancelledError:
            return Outcome("stopped")
        except errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, (ModuleNotFoundError, ImportError)):
                return Outcome("failed", _not_installed(cause))
            return Outcome("lost", why=_first_line(error))
        except errors.RayError as error:
            return Outcome("lost", why=_first_line(error))
        return found

    def _nodes(self) -> list[dict[str, Any]]:
        self._require_head()
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _require_head(self) -> None:
        """ClusterError when the cluster's head is gone: Ray would end this process for it, after a minute, without a
        word to its user."""
        end = time.monotonic() + _HEAD_SECONDS
        while (problem := _no_answer(self._head, _ANSWER_SECONDS)) is not None:
            if time.monotonic() > end:
                self._running.clear()  # nobody is there who could be told to stop
                raise ClusterError(
                    f"the head of the cluster at {self._head} has not answered for {_HEAD_SECONDS:.0f} s ({problem}). "
                    "What was trained until the last checkpoints is kept: start a cluster and run the same command "
                    "again, with its address, or without --ray."
                )
            time.sleep(_LOOK_SECONDS)

    def _require_nodes(self, expected: Expected) -> int:
        """How many nodes can take part.

        A node that is lost while it is asked is one less, and those that there are then are looked at again: Ray takes
        half a minute to see that one has died, and places tasks on it until then. ClusterError when a node answers that
        it cannot take part, or none answers.
        """
        answers: dict[str, str] = {}
        lost = ""
        end = time.monotonic() + _NODES_SECONDS
        while unasked := [node["NodeID"] for node in self._nodes() if node["NodeID"] not in answers]:
            for name, answer in self._ask(unasked, expected, end).items():
                if isinstance(answer, str):
                    answers[name] = answer
                else:
                    lost = f" ({_first_line(answer)})"
            if time.monotonic() > end:
                break
            time.sleep(_LOOK_SECONDS if lost else 0.0)
        there = {node["NodeID"] for node in self._nodes()}
        found = [answer for name, answer in answers.items() if name in there]
        if not found:
            raise ClusterError(
                f"no node of the cluster says what it has{lost}. `ray status` tells which are there, and `ray start "
                "--address=HOST:PORT` starts one; then run the same command again."
            )
        if problems := [problem for problem in found if problem]:
            raise ClusterError("\n".join(problems))
        return len(found)

    def _ask(self, names: Sequence[str], expected: Expected, end: float) -> dict[str, str | BaseException]:
        """Node's id → its problem ("" for none), or how it was lost; without those that are silent at the end."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        errors = self._ray.exceptions
        asked = {
            self._ray.remote(problem_here)
            .options(num_cpus=0, max_retries=0, scheduling_strategy=On(node_id=name, soft=False))
            .remote(expected): name
            for name in names
        }
        done, silent = self._ray.wait(
            list(asked), num_returns=len(asked), timeout=max(_ANSWER_SECONDS, end - time.monotonic())
        )
        found: dict[str, str | BaseException] = {}
        for each in done:
            try:
                found[asked[each]] = self._ray.get(each)
            except errors.RayTaskError as error:
                if isinstance(error.cause, ImportError):
                    raise _not_installed(error.cause) from None
                found[asked[each]] = f"a node of the cluster cannot be asked what it has: {_first_line(error)}"
            except errors.RayError as error:
                found[asked[each]] = error
        for each in silent:
            self._ray.cancel(each, force=True)
        return found


def _connected(address: str, workers: int | None) -> Any:
    """The module ray, connected; ClusterError when that cannot be."""
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise ClusterError("--ray needs the package ray. Install it by `pip install 'lowregret[cluster]'`.") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray._private.worker._worker_logs_enabled = False  # what Ray has to say of a lost node goes to standard output
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": None}
    if address == LOCAL:
        cpus = workers or os.cpu_count()
        ray.init(LOCAL, num_cpus=cpus, object_store_memory=_STORE_BYTES, **quiet | {"include_dashboard": False})
        return ray
    if address != "auto":
        _require_answer(address)
    try:
        ray.init(address=address, **quiet)
    except (RuntimeError, ValueError, ConnectionError, TimeoutError) as error:
        raise ClusterError(
            f"--ray {address}: {' '.join(str(error).split())[:600]} The program runs on a node of the cluster, with "
            "the cluster's versions of ray and Python."
        ) from None
    return ray


def _require_answer(address: str) -> None:
    """ClusterError when nothing listens there."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in address:
        raise ClusterError(
            f"--ray {address}: give HOST:PORT of the cluster's head (the port is {_PORT} unless `ray start` was told "
            f"another), auto on a node of a cluster, or {LOCAL}."
        )
    if (problem := _no_answer(address, _ANSWER_SECONDS)) is not None:
        raise ClusterError(
            f"--ray {address}: nothing answers there ({problem}). `ray start --head --port={_PORT}` starts a cluster; "
            "its address is what it prints."
        )


def _no_answer(address: str, seconds: float) -> Exception | None:
    """Why nothing listens at HOST:PORT; None where something does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except (OSError, OverflowError, ValueError) as error:  # ValueError: no name of a machine, such as a..b
        return error
    return None


def _holds(node: Mapping[str, Any], needs: Needs) -> bool:
    return _take([dict(node["Resources"])], needs)


def _take(free: Sequence[dict[str, float]], needs: Needs) -> bool:
    """Give a group room on the first node that has it; False when none has."""
    asked = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": needs.memory_bytes}
    for resources in free:
        if all(resources.get(name, 0.0) + 1e-9 >= amount for name, amount in asked.items()):
            for name, amount in asked.items():
                resources[name] = resources.get(name, 0.0) - amount
            return True
    return False


def _weight(needs: Needs) -> tuple[float, int, int]:
    return needs.gpus, needs.cpus, needs.memory_bytes


def _named(node: Mapping[str, Any]) -> str:
    return str(node.get("NodeManagerHostname") or node["NodeID"][:8])


def _said(resources: Mapping[str, float]) -> str:
    cpus, gpus, memory = (resources.get(name, 0.0) for name in ("CPU", "GPU", "memory"))
    return str(Needs(int(cpus), int(memory), gpus))


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _not_installed(cause: BaseException) -> ClusterError:
    return ClusterError(
        f"a worker of the cluster cannot run lowregret: {cause}. Install there what runs the study, or start Ray in "
        "an environment that has it."
    )
