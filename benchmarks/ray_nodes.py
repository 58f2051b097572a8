"""A Ray cluster of several nodes on this machine, whose nodes are killed: of the benchmark and of the tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_START_SECONDS = 120.0
_STARTS = 3
"""Ray gives its own processes 30 seconds to start, which a busy machine may exceed."""


class Nodes:
    """Nodes with one CPU each, the head first."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: for what the nodes say.
        """
        self.address = ""
        self._folder, self._count = folder, 0
        self.nodes: list[subprocess.Popen[bytes]] = []

    def add(self) -> None:
        """Start a node, and wait for it; RuntimeError with what it said when it does not come up."""
        for _ in range(_STARTS):
            said = self._folder / f"node{self._count}"
            self._count += 1
            node = self._begin(said)
            if _is_up(node, said):
                self.nodes.append(node)
                return
            kill(node.pid)
        raise RuntimeError(f"a node did not start:\n{said.read_text()}")

    def kill(self) -> None:
        """The youngest node, with all that runs on it."""
        kill(self.nodes.pop().pid)

    def memory(self) -> int:
        """Bytes of Ray's own processes: resident, but for what they share."""
        processes = [each for node in self.nodes for each in psutil.Process(node.pid).children(recursive=True)]
        own = [each for each in processes if not any("ray::" in part for part in each.cmdline())]
        return sum(each.memory_full_info().uss for each in own)

    def _begin(self, said: Path) -> subprocess.Popen[bytes]:
        if self.nodes:
            role = ["--address", self.address]
        else:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.address = f"127.0.0.1:{free.getsockname()[1]}"
            role = ["--head", "--port", self.address.rpartition(":")[2], "--include-dashboard=false"]
        ray = str(Path(sys.executable).with_name("ray"))
        return subprocess.Popen(
            [ray, "start", *role, "--node-ip-address=127.0.0.1", "--num-cpus=1", "--object-store-memory=80000000",
             "--block"],
            stdin=subprocess.DEVNULL, stdout=said.open("wb"), stderr=subprocess.STDOUT,
        )  # fmt: skip


def _is_up(node: subprocess.Popen[bytes], said: Path) -> bool:
    end = time.monotonic() + _START_SECONDS
    while "Ray runtime started" not in said.read_text():
        if node.poll() is not None or time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def kill(pid: int) -> None:
    """SIGKILL to a process and all below it."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        with suppress(psutil.TimeoutExpired):
            process.wait(10)


@contextmanager
def cluster(folder: Path, count: int) -> Iterator[Nodes]:
    """Nodes that end with the context."""
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}  # the latter: no token in the home folder
    before = {name: os.environ.get(name) for name in quiet}
    os.environ.update(quiet)
    made = Nodes(folder)
    try:
        for _ in range(count):
            made.add()
        yield made
    finally:
        while made.nodes:
            made.kill()
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
