"""The one thread that uses the engine: it draws for all requests together, and changes policies between steps. What
else is to be done on the engine is attached, and has its turn after each step."""

from __future__ import annotations

import asyncio
import queue
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeVar, final

from torch import Tensor

from lowregret.engine.device import out_of_memory
from lowregret.engine.sampling.draw import Likely, SamplingParams, rows_of_uniforms
from lowregret.engine.sampling.live import LiveSampler
from lowregret.engine.sampling.rows import Constraint, Row

T = TypeVar("T")

READ_TOKENS = 2048
"""Of prompts that are taken in before a step, at most, but for one: who is drawn for waits meanwhile."""

End = Literal["stop", "length", "cancelled", "memory", "failed"]


@dataclass(frozen=True)
class News:
    """What was drawn for a choice in a step."""

    choice: int
    tokens: Sequence[int]
    likely: Sequence[Likely]
    end: End | None


@dataclass(eq=False)
class Job:
    """A request's completions: its prompts, each continued some times."""

    policy: str
    prompts: Sequence[Sequence[int]]
    params: SamplingParams
    choices: int
    """Of each prompt."""
    loop: asyncio.AbstractEventLoop
    constrain: Callable[[], Constraint] | None = None
    """Makes what each completion may be."""
    news: asyncio.Queue[News] = field(default_factory=asyncio.Queue)
    cancelled: bool = False
    rows: dict[Row, tuple[int, int]] = field(default_factory=dict)
    """Those in the batch, with their choice and how many of their tokens were told."""
    _numbers: Iterator[Tensor] = field(init=False, repr=False)

    @property
    def size(self) -> int:
        """Completions in all."""
        return len(self.prompts) * self.choices

    def numbers(self, choice: int) -> Tensor:
        """What a choice is drawn by, its prompt's first or the one after the last that was asked for."""
        if choice % self.choices == 0:
            self._numbers = rows_of_uniforms(self.params)
        return next(self._numbers)

    async def next(self) -> News:
        """The next news; "failed" or "memory" where the engine has let go of it."""
        return await self.news.get()


@final
class Worker:
    """Jobs in, news out; in order of arrival, as many rows at once as there are places."""

    def __init__(self, sampler: LiveSampler, most_rows: int, log: Callable[[str, str], None]) -> None:
        """`log` is told of what fails: what it was, and the traceback."""
        self.sampler = sampler
        self._most = most_rows if sampler.most_rows is None else min(most_rows, sampler.most_rows)
        self.log = log
        self._inbox: queue.SimpleQueue[Job | Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: deque[tuple[Job, int]] = deque()
        """(job, choice), in order."""
        self._rows: dict[Row, Job] = {}
        self._leaving: list[tuple[str, Callable[[], None]]] = []
        """Policies that go, and what takes each off."""
        self._turn: Callable[[], bool] = lambda: False
        self._end: Callable[[], None] = lambda: None
        self._more = False
        """Whether what is attached has more to do."""
        self._thread = threading.Thread(target=lambda: self._context.run(self._run), name="engine", daemon=True)
        self._context = copy_context()
        self.running = self.waiting = self.drawn = self.read = 0
        """Rows in the batch, rows that wait, tokens drawn and tokens of prompts so far."""

    def attach(self, turn: Callable[[], bool], end: Callable[[], None]) -> None:
        """Before the start: other work. `turn` does a piece of it and says whether there is more, `end` is the last."""
        self._turn, self._end = turn, end

    def wake(self) -> None:
        """What is attached has something to do."""
        self._inbox.put(lambda: None)

    def start(self) -> None:
        """Begin, within the folders that whoever starts it has locked: they are the thread's, too."""
        self._context = copy_context()
        self._thread.start()

    def stop(self) -> None:
        """End after the step that runs; jobs get no more news."""
        self._inbox.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether it still works."""
        return self._thread.is_alive()

    def submit(self, job: Job) -> None:
        """Draw a job's completions."""
        self._inbox.put(job)

    async def change(self, change: Callable[[], T]) -> T:
        """Change the engine's policies between two steps."""
        done: Future[T] = Future()

        def run() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(self.sampler.change(change))
            except BaseException as error:  # it is the asker's
                done.set_exception(error)

        self._inbox.put(run)
        return await asyncio.wrap_future(done)

    def retire(self, policy: str, change: Callable[[], None]) -> None:
        """The same for nobody who waits, once no row of this policy is left."""
        self._inbox.put(lambda: self._leaving.append((policy, change)))

    def _run(self) -> None:
        while self._receive(wait=not (self._rows or self._waiting or self._more)):
            try:
                self._seat()
                told = self.sampler.step() if self.sampler.busy else []
            except Exception as error:  # whatever it is, the next request is answered
                self._fail(error)
            else:
                self._tell(told)
            self._retire()
            self._more = self._guarded(self._turn) or False
        self.sampler.close()
        self._guarded(self._end)

    def _guarded(self, run: Callable[[], T]) -> T | None:
        try:
            return run()
        except Exception as error:  # whatever it is, the next request is answered
            self.log(f"{type(error).__name__}: {error}", traceback.format_exc())
            return None

    def _retire(self) -> None:
        """Take off the policies that are to go and have no row any more."""
        held = {job.policy for job in (*self._rows.values(), *(job for job, _ in self._waiting))}
        for policy, change in [each for each in self._leaving if each[0] not in held]:
            self._leaving.remove((policy, change))
            self._guarded(partial(self.sampler.change, change))

    def _receive(self, *, wait: bool) -> bool:
        """Take what has come; False at the end."""
        while True:
            try:
                item = self._inbox.get(block=wait)
            except queue.Empty:
                return True
            wait = False
            if item is None:
                return False
            if isinstance(item, Job):
                self._waiting += [(item, choice) for choice in range(item.size)]
                self.waiting = len(self._waiting)
            else:
                item()

    def _seat(self) -> None:
        """Give places to those that wait; rows of jobs that were given up lose theirs."""
        for row, job in self._rows.items():
            row.cancelled = job.cancelled
        if any(job.cancelled for job, _ in self._waiting):
            self._waiting = deque(entry for entry in self._waiting if not entry[0].cancelled)
        read = 0
        while self._waiting and len(self._rows) < self._most:
            job, choice = self._waiting[0]
            prompt = job.prompts[choice // job.choices]
            if read and read + len(prompt) > READ_TOKENS:
                break
            self._waiting.popleft()
            numbers = job.numbers(choice)
            try:
                form = None if job.constrain is None else job.constrain()
                row = self.sampler.add(job.policy, prompt, job.params, numbers, form)
            except Exception as error:  # it is this job's alone
                self.log(f"{type(error).__name__}: {error}", traceback.format_exc())
                self._send({job.loop: [(job, News(choice, (), (), "failed"))]})
                continue
            self._rows[row], job.rows[row] = job, (choice, 0)
            read += len(prompt)
        self.read += read
        self.running, self.waiting = len(self._rows), len(self._waiting)

    def _tell(self, rows: Sequence[Row]) -> None:
        news: dict[asyncio.AbstractEventLoop, list[tuple[Job, News]]] = {}
        for row in rows:
            job = self._rows[row]
            choice, told = job.rows[row]
            likely = row.likely[told:] if row.params.top_logprobs is not None else ()
            news.setdefault(job.loop, []).append((job, News(choice, row.tokens[told:], likely, row.ended)))
            self.drawn += len(row.tokens) - told
            job.rows[row] = choice, len(row.tokens)
            if row.ended is not None:
                del self._rows[row], job.rows[row]
        self._send(news)
        self.running = len(self._rows)

    def _fail(self, error: Exception) -> None:
        """Tell all jobs in the batch, and begin anew without them."""
        self.log(f"{type(error).__name__}: {error}", traceback.format_exc())
        end: End = "memory" if out_of_memory(error) else "failed"
        news: dict[asyncio.AbstractEventLoop, list[tuple[Job, News]]] = {}
        for row, job in self._rows.items():
            news.setdefault(job.loop, []).append((job, News(job.rows.pop(row)[0], (), (), end)))
        self._rows = {}
        self.sampler.abandon()
        self._send(news)
        self.running = 0

    def _send(self, news: dict[asyncio.AbstractEventLoop, list[tuple[Job, News]]]) -> None:
        for loop, own in news.items():
            try:
                loop.call_soon_threadsafe(_deliver, own)
            except RuntimeError:  # it is closed: nobody listens any more
                for job, _ in own:
                    job.cancelled = True


def apart(load: Callable[[], T]) -> T:
    """What a thread gives that ends with it: for what is computed before the engine's thread has begun.

    torch keeps threads for each thread that has computed. Where those are more than there are processors they do not
    wait awake for each other, and each small product of a step waits for them: a step of 8 rows of SmolLM2 took 66 ms
    in the place of 58 on two (docs/findings/2026-11-30-serving.md).
    """
    done: Future[T] = Future()
    context = copy_context()

    def run() -> None:
        try:
            done.set_result(context.run(load))
        except BaseException as error:  # it is the asker's
            done.set_exception(error)

    thread = threading.Thread(target=run, name="loading", daemon=True)
    thread.start()
    found = done.result()
    thread.join()
    return found


def _deliver(news: Sequence[tuple[Job, News]]) -> None:
    for job, each in news:
        job.news.put_nowait(each)
