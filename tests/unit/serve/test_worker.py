"""The engine's thread: a policy goes when its last row has."""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
import torch

from lowregret.engine import Engine, SamplingParams
from lowregret.engine.sampling.live import LiveSampler
from lowregret.errors import RecordsError
from lowregret.runs.atomic import write_bytes
from lowregret.runs.files import LOCK
from lowregret.runs.lock import lock_run
from lowregret.serve.server import Server
from lowregret.serve.worker import Job, Worker, apart
from lowregret.spec.serve import ServeSpec


def test_nothing_is_kept_of_a_policy_whose_client_left(bases: ModuleType) -> None:
    """Its row, which is still in the batch then, would leave its states behind."""
    engine = Engine(bases.small_base("llama"))
    bases.adapted(engine, "a", rank=2)
    sampler = LiveSampler(engine, prefix_bytes=10**7)
    failed: list[str] = []
    worker = Worker(sampler, 4, lambda what, trace: failed.append(trace))

    def remove() -> None:
        engine.remove_policy("a")
        sampler.forget("a")

    async def leave() -> None:
        prompt = [number % 50 + 2 for number in range(40)]
        job = Job("a", [prompt], SamplingParams(max_tokens=2000), 1, asyncio.get_running_loop())
        worker.submit(job)
        await job.next()
        job.cancelled = True
        worker.retire("a", remove)

    worker.start()
    asyncio.run(leave())
    deadline = time.monotonic() + 20
    while "a" in engine.policies:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    worker.stop()
    assert sampler.prefixes is not None
    assert sampler.prefixes.bytes == 0
    assert not failed


def test_the_engines_thread_writes_within_the_folder_that_is_locked(tmp_path: Path) -> None:
    """Whoever takes the lock away, or over, ends its writing: states and checkpoints of Tinker's clients."""
    idle = SimpleNamespace(most_rows=None, busy=False, change=lambda run: run(), close=lambda: None)

    async def write(worker: Worker) -> None:
        await worker.change(lambda: write_bytes(tmp_path / "state", b"of a policy"))

    with lock_run(tmp_path) as folder:
        worker = Worker(cast(Any, idle), 1, lambda what, trace: None)
        worker.start()
        try:
            asyncio.run(write(worker))
            (folder / LOCK).unlink()
            with pytest.raises(RecordsError, match="was removed or replaced"):
                asyncio.run(write(worker))
        finally:
            worker.stop()


def test_what_is_loaded_apart_leaves_no_thread() -> None:
    """The threads that torch keeps for it end with it."""
    here: ContextVar[str] = ContextVar("here")
    here.set("asker")
    names = apart(lambda: (threading.current_thread().name, here.get()))
    assert names == ("loading", "asker")
    assert all(thread.name != "loading" for thread in threading.enumerate())


def test_what_goes_wrong_apart_is_told_the_asker() -> None:
    def fail() -> None:
        raise KeyError("of the loader")

    with pytest.raises(KeyError, match="of the loader"):
        apart(fail)


def test_nothing_is_computed_before_the_engines_thread_but_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else torch keeps a second set of threads, and every step of the engine's own waits for them."""
    computing: set[str] = set()
    own = torch.nn.functional.linear

    def seen(*arguments: torch.Tensor) -> torch.Tensor:
        computing.add(threading.current_thread().name)
        return own(*arguments)

    monkeypatch.setattr(torch.nn.functional, "linear", seen)
    server = Server("tiny", ServeSpec(port=0), adapters={})
    server.socket.close()
    assert computing == {"loading"}
