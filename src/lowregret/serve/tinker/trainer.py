"""The policies that clients train, on the engine's thread: what is first in each one's queue goes into one pass.

Requests of a model are done in the order of their numbers, without gaps. Those of different models meet: all steps that
are due are one call of the engine, all passes another, whatever their ranks, rates and losses.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, final

from lowregret.engine.engine import Engine
from lowregret.errors import LowregretError
from lowregret.foreign_text import without_paths
from lowregret.serve.tinker.ledger import Answer, Ledger, failure
from lowregret.serve.tinker.operations import Operations
from lowregret.serve.tinker.passing import pass_all, score_all, together
from lowregret.serve.tinker.tensors import Passing
from lowregret.serve.tinker.work import Score, Step, Task


class _Queue:
    """Requests of one model that wait, by their numbers."""

    def __init__(self, following: int) -> None:
        self.following = following
        """The number of the one that is done next."""
        self.tasks: dict[int, Task] = {}
        self.since = time.monotonic()
        """When it last moved, or began to wait."""

    @property
    def head(self) -> Task | None:
        """The one whose turn it is, if it has come."""
        return self.tasks.get(self.following)

    def advance(self, following: int) -> None:
        """Everything before this number is done."""
        self.tasks = {seq: task for seq, task in self.tasks.items() if seq >= following}
        self.following = max(self.following, following)
        self.since = time.monotonic()


@final
class Trainer:
    """Queues of tasks; `turn` does what is due, in the engine's thread."""

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        *,
        pass_tokens: int,
        most_models: int,
        change: Callable[[Callable[[], None]], None],
        tell: Callable[[Sequence[str]], None],
        wake: Callable[[], None],
        log: Callable[[str, str], None],
    ) -> None:
        """`change` does what changes policies or their weights, `tell` is given the requests that have answers, `wake`
        has the engine's thread look for work, and `log` is told of what fails, with the traceback."""
        self._engine, self._ledger, self._pass_tokens = engine, ledger, pass_tokens
        self._change, self._tell, self._wake, self._log = change, tell, wake, log
        self.operations = Operations(engine, ledger, pass_tokens, most_models, self.waits)
        self._lock = threading.Lock()
        self._queues: dict[str, _Queue] = {}
        self._scores: list[tuple[Score, Future[dict[str, Any]]]] = []
        self.passes = self.packed = 0
        """Passes of requests so far, and requests in them."""

    def put(self, task: Task) -> bool:
        """Take a task into its model's queue; False for one that those behind it have been given up for."""
        with self._lock:
            queue = self._queue(task.model)
            if task.asked.seq < queue.following:
                return False
            if not queue.tasks:
                queue.since = time.monotonic()
            queue.tasks[task.asked.seq] = task
        self._wake()
        return True

    def skip(self, model: str, seq: int) -> None:
        """A number whose request was refused: those behind it do not wait for it."""
        with self._lock:
            queue = self._queue(model)
            queue.advance(self._ledger.done_up_to(model, queue.following))
        self._wake()

    def score(self, score: Score) -> Future[dict[str, Any]]:
        """Log-probabilities of a prompt."""
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            self._scores.append((score, future))
        self._wake()
        return future

    def waits(self, model: str) -> int:
        """How many tasks of a model wait."""
        queue = self._queues.get(model)
        return 0 if queue is None else len(queue.tasks)

    def following(self, model: str) -> int:
        """The number of a model's request that is done next."""
        with self._lock:
            return self._queue(model).following

    def stuck(self, model: str) -> float:
        """Seconds for which a model's requests have waited for one that has not come."""
        with self._lock:
            queue = self._queues.get(model)
            gap = queue is not None and queue.tasks and queue.head is None
            return time.monotonic() - queue.since if queue is not None and gap else 0.0

    def give_up(self, model: str) -> list[Task]:
        """Take out all that waits for a request that has not come, and go on behind it."""
        with self._lock:
            queue = self._queue(model)
            if queue.head is not None or not queue.tasks:
                return []
            found = [queue.tasks[seq] for seq in sorted(queue.tasks)]
            queue.tasks.clear()
            queue.following = found[-1].asked.seq + 1
            return found

    def _queue(self, model: str) -> _Queue:
        if model not in self._queues:
            self._queues[model] = _Queue(self._ledger.following(model))
        return self._queues[model]

    def turn(self) -> bool:
        """Do what is due, one call of the engine or some files; whether more is."""
        with self._lock:
            heads = [queue.head for queue in self._queues.values()]
            due = sorted((head for head in heads if head is not None), key=lambda task: task.asked.created)
            count = together([score for score, _ in self._scores])
            scores, self._scores = self._scores[:count], self._scores[count:]
        if scores:
            self._change(lambda: self._score(scores))
        steps = [task for task in due if isinstance(task.work, Step)]
        others = [task for task in due if not isinstance(task.work, Step | Passing)]
        passed = [task.work.forward_only for task in due if isinstance(task.work, Passing)]
        # Of the kind that has waited longest: who trains without a pause would keep who only asks from ever being told.
        alike = [task for task in due if isinstance(task.work, Passing) and task.work.forward_only == passed[0]]
        chosen = steps or others[:1] or alike
        if chosen:
            self._change(lambda: self._do(chosen))
        with self._lock:
            return bool(self._scores) or any(queue.head is not None for queue in self._queues.values())

    def _do(self, tasks: Sequence[Task]) -> None:
        answers = self._together(tasks)
        try:
            self._ledger.keep({task.asked.id: answer for task, answer in answers})
        except Exception:  # what nobody was told is done again, from what is known
            for task in tasks:
                self.operations.forget(task.model)
            raise
        with self._lock:
            for task in tasks:
                self._queues[task.model].advance(self._ledger.done_up_to(task.model, task.asked.seq + 1))
        self._tell([task.asked.id for task in tasks])
        for task, answer in answers:
            self._guarded(task, partial(self.operations.after, task, failed=answer.failed))

    def _together(self, tasks: Sequence[Task]) -> list[tuple[Task, Answer]]:
        """Answers to tasks of one kind. Where one fails, all are done again one by one, from what was known before."""
        ready = []
        answers = {}
        for task in tasks:
            failed = self._guarded(task, partial(self.operations.ensure, task))
            if failed is None:
                ready.append(task)
            else:
                answers[task] = failed
        try:
            answers |= self._at_once(ready)
        except Exception as error:
            self._log(f"{type(error).__name__}: {error}", traceback.format_exc())
            for task in ready:
                self.operations.forget(task.model)
            for task in ready:
                answers[task] = self._alone(task)
        return [(task, answers[task]) for task in tasks]

    def _at_once(self, tasks: Sequence[Task]) -> dict[Task, Answer]:
        """Answers of the engine to tasks of one kind."""
        if not tasks:
            return {}
        if isinstance(tasks[0].work, Step):
            return self.operations.step({task: task.work.params for task in tasks if isinstance(task.work, Step)})
        if isinstance(tasks[0].work, Passing):
            asked = {task.model: task.work for task in tasks if isinstance(task.work, Passing)}
            found = pass_all(self._engine, asked, self._pass_tokens)
            self.passes += 1
            self.packed += len(tasks)
            return {task: found[task.model] for task in tasks}
        return {task: self.operations.run(task) for task in tasks}

    def _alone(self, task: Task) -> Answer:
        """The same of one task, whose policy is put back as it was when it fails."""
        found: dict[Task, Answer] = {}

        def run() -> None:
            self.operations.ensure(task)
            found.update(self._at_once([task]))

        failed = self._guarded(task, run)
        if failed is None:
            return found[task]
        self.operations.forget(task.model)
        return failed

    def _guarded(self, task: Task, run: Callable[[], None]) -> Answer | None:
        """What a client is told of a failure; None where there is none."""
        try:
            run()
        except LowregretError as error:
            return failure(without_paths(str(error), [str(self._ledger.folder)]), "user")
        except Exception as error:
            self._log(f"{task.asked.id}: {type(error).__name__}: {error}", traceback.format_exc())
            return failure("The server failed on this request; its log says how.", "server")
        return None

    def _score(self, scores: Sequence[tuple[Score, Future[dict[str, Any]]]]) -> None:
        try:
            found: Sequence[Mapping[str, Any]] = score_all(
                self._engine, [score for score, _ in scores], self._pass_tokens
            )
        except Exception as error:
            self._log(f"{type(error).__name__}: {error}", traceback.format_exc())
            for _, future in scores:
                future.set_exception(RuntimeError("scoring failed"))
            return
        for (_, future), told in zip(scores, found, strict=True):
            future.set_result(dict(told))

    def stop(self) -> None:
        """Write the states of policies that have changed, at the end."""
        for model in list(self.operations.resident):
            try:
                self.operations.keep(model)
            except Exception as error:
                self._log(f"{type(error).__name__}: {error}", traceback.format_exc())
